"""Shortcuts: local marks by which a network knows a class, though they are not what the class is.

Candidates are looks that several right images of a class share, and few others, where the evidence for the class lies
(HiResCAM). What decides is an experiment of three parts:

- *pasting suffices*: in pictures of other classes the mark makes the class more probable than other patches of the same
  size and at the same places do, of the class and of others;
- *covering harms*: in the class's own images, more than covering as much elsewhere;
- *without it, worse*: images of the class that lack the mark are recognised less often, on the test images.

All three make it a shortcut; two of three a strong cue, of which only people can say whether it is part of the object.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.explanations import compute_maps
from camlens.analyse.interventions import (
    FEWEST,
    Effect,
    Experiment,
    compare_without,
    pictures,
    screen,
    try_covering,
    try_pasting,
)
from camlens.analyse.patches import CORE, Mark, build_mark, distances, find_mark, small, windows
from camlens.progress import Work

SEARCHED = 30  # images of a class with maps
COMPARED, OTHERS = 100, 150  # right images of a class, and of the others, whose looks are compared
MOST_CLASSES, CANDIDATES, SCREENED_MARKS, SURVIVORS = 75, 3, 30, 5  # so that the network runs on 10,000 images at most
PATCHES, APART = 8, 3  # places of the most evidence in an image; pixels of its small copy between them
ALIKE = 0.02  # fraction of other classes' images that count as having a look, by which "having it" is defined
# what the lower end of each interval must exceed; chosen on one network, which the benchmark leaves out
SUFFICES, HARMS, WORSE = 0.15, 0.02, 0.0
SCREEN = 0.05  # rise of the class's mean probability from which a candidate is tested


@dataclass(frozen=True)
class Shortcut:
    """A mark that the network uses.

    Attributes:
        class_name: The class that it gives away.
        mark: Its look, and the images in which it was found.
        known: The evaluation that these are of: on the training images, or without them on the test set.
        pasted: Fraction of pictures of other classes that become the class; control: the more effective of other
            patches, of the class's own images and of others'.
        covered: Fall of the class's probability in its own images where the mark is covered; control: another place.
        missing: Fraction right of the class's images that have it; control: of those on the test set that lack it. None
            where one of both has fewer than `KNOWN` images.
        turned: Test pictures of other classes that become the class, for display, (n,) int64, and the places (n, 2) at
            which the mark was pasted into them.
    """

    class_name: str
    mark: Mark
    known: Evaluation
    pasted: Effect
    covered: Effect
    missing: Effect | None
    turned: tuple[Tensor, Tensor]

    @property
    def margins(self) -> tuple[float, float, float]:
        """How far the lower end of each difference's interval is above what it must exceed; -1 for none."""
        without = -1.0 if self.missing is None else self.missing.interval[0] - WORSE
        return self.pasted.interval[0] - SUFFICES, self.covered.interval[0] - HARMS, without

    @property
    def holds(self) -> tuple[bool, ...]:
        """Which of the three are shown: pasting suffices, covering harms, without it worse."""
        return tuple(margin > 0 for margin in self.margins)

    @property
    def is_alarm(self) -> bool:
        """Whether all three are shown."""
        return all(self.holds)

    @property
    def sentence(self) -> str:
        """What was done and what happened."""
        done = [
            f"pasted into {self.pasted.images} pictures of other classes, {percent(self.pasted.value)} become "
            f"{self.class_name} (with other patches {percent(self.pasted.control)})",
            f"covered, its own lose {round(100 * self.covered.value)} points of probability (elsewhere "
            f"{round(100 * self.covered.control)})",
        ]
        if self.missing is not None:
            done.append(f"{percent(self.missing.value)} with it are right, {percent(self.missing.control)} without it")
        verdict = "A shortcut" if self.is_alarm else "A strong cue: is it part of the object?"
        return f"{verdict}{':' if self.is_alarm else ''} a mark in images of {self.class_name}: {'; '.join(done)}."


@dataclass(frozen=True)
class Shortcuts:
    """What was found.

    Attributes:
        found: Shortcuts, then strong cues.
        tested: All marks that the whole experiment was made with.
        passes: Images that the network was run on.
        note: One sentence on the result.
    """

    found: list[Shortcut]
    tested: list[Shortcut]
    passes: int
    note: str


def percent(share: float) -> str:
    """A share for people: "42 %"."""
    return f"{100 * share:.0f} %"


def find_shortcuts(test: Evaluation, known: Evaluation | None = None, seed: int = 0) -> Shortcuts:
    """Look for shortcuts. The network runs on 10,000 images at most.

    Args:
        test: The network's evaluation on the test set.
        known: That on its training images, in which marks are looked for; by default in the test set.
        seed: Of all that is drawn at random.
    """
    generator = torch.Generator().manual_seed(seed)
    experiment = Experiment(test, known or test, generator)
    counts = torch.bincount(experiment.known.labels, minlength=len(test.data.class_names))
    classes = counts.argsort(descending=True, stable=True)[:MOST_CLASSES].tolist()
    candidates = []
    with Work("looking for marks that give a class away", len(classes)) as work:
        for class_index in classes:
            candidates += find_candidates(experiment, class_index)
            work.step()
    candidates.sort(key=lambda candidate: candidate[0], reverse=True)
    screened = []
    for _, class_index, mark in candidates[:SCREENED_MARKS]:
        if (rise := screen(experiment, class_index, mark)) > SCREEN:
            screened.append((rise, class_index, mark))
    screened.sort(key=lambda candidate: candidate[0], reverse=True)
    tested = [try_mark(experiment, class_index, mark) for _, class_index, mark in screened[:SURVIVORS]]
    found = sorted(
        (t for t in tested if sum(t.holds) >= 2), key=lambda t: (t.is_alarm, t.pasted.difference), reverse=True
    )
    said = f"{len(candidates)} marks were tried, {len(tested)} of them in full ({experiment.passes:,} passes)."
    return Shortcuts(found, tested, experiment.passes, said if found else f"None was found: {said}")


def find_candidates(experiment: Experiment, class_index: int) -> list[tuple[float, int, Mark]]:
    """Marks that right images of a class share and others lack: how many more of its images have it, class and mark."""
    own = experiment.right(class_index)[:COMPARED]
    rest = experiment.draw((experiment.known.labels != class_index).nonzero()[:, 0], OTHERS)
    if len(own) < 2 * FEWEST or len(rest) < 2 * FEWEST:
        return []
    images, others = pictures(experiment.known, own), pictures(experiment.known, rest)
    copies, other_copies = small(images), small(others)
    looks = most_evidence(experiment, own[:SEARCHED], class_index, copies[:SEARCHED])
    own_distances, own_places = distances(looks, copies)  # (P, n)
    limits = distances(looks, other_copies)[0].quantile(ALIKE, dim=1, keepdim=True)
    has = own_distances <= limits
    shared = has.float().mean(dim=1) - ALIKE
    found: list[tuple[float, int, Mark]] = []
    taken: list[Tensor] = []
    for patch in shared.argsort(descending=True).tolist():
        where = has[patch]
        if len(found) == CANDIDATES or int(where.sum()) < FEWEST:
            break
        if all(float((where & other).sum() / (where | other).sum()) < 0.5 for other in taken):
            taken.append(where)
            chosen = where.nonzero()[:SEARCHED, 0]
            mark = build_mark(images[chosen], own[chosen], own_places[patch][chosen], others)
            found.append((float(shared[patch]), class_index, mark))
    return found


def most_evidence(experiment: Experiment, indices: Tensor, class_index: int, copies: Tensor) -> Tensor:
    """The patches of images with the most evidence for a class, (P, C, CORE, CORE), at places apart from each other."""
    targets = torch.full((len(indices), 1), class_index)
    experiment.passes += len(indices)
    evidence = torch.zeros(len(indices), *copies.shape[2:])
    for maps in compute_maps(experiment.known, indices, targets).values():
        positive = maps.clamp(min=0)
        positive = positive / positive.mean(dim=(2, 3), keepdim=True).clamp(min=1e-12)
        evidence += F.interpolate(positive, copies.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    sums = F.avg_pool2d(evidence[:, None], CORE, 1)  # (n, 1, h, w)
    is_peak = sums == F.max_pool2d(sums, APART, 1, APART // 2)
    places = (sums * is_peak).flatten(1).topk(min(PATCHES, sums[0].numel()), dim=1).indices  # (n, p)
    chosen = windows(copies).gather(2, places[:, None].expand(-1, len(copies[0]) * CORE * CORE, -1))
    return chosen.transpose(1, 2).reshape(-1, len(copies[0]), CORE, CORE)


def try_mark(experiment: Experiment, class_index: int, mark: Mark) -> Shortcut:
    """All three parts of the experiment."""
    rest = experiment.draw((experiment.known.labels != class_index).nonzero()[:, 0], OTHERS)
    limit = float(find_mark(mark, pictures(experiment.known, rest))[0].quantile(ALIKE))
    pasted, turned = try_pasting(experiment, class_index, mark)
    covered = try_covering(experiment, class_index, mark, limit)
    missing = compare_without(experiment, class_index, mark, limit)
    return Shortcut(
        class_name=experiment.test.data.class_names[class_index],
        mark=mark,
        known=experiment.known,
        pasted=pasted,
        covered=covered,
        missing=missing,
        turned=turned,
    )
