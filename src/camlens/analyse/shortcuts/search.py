"""Shortcuts: local patches by which a network recognises a class although they are not part of its objects.

Candidates are patches with much evidence for the class (HiResCAM) that occur in many of its correctly predicted images
and in few images of other classes. Each candidate is tested by three interventions:

- *pasting suffices*: pasted into images of other classes, the patch makes them the class more often than other patches
  of the same size, of the class and of others, at the same positions;
- *covering harms*: covered in the class's own images, the probability of the class decreases more than if another
  region of the same size is covered;
- *without it, worse*: on the test set, images of the class without the patch are correct less often than with it.

If all three hold, the patch is a shortcut; if two hold, it is a strong cue, and only a person can say whether it is
part of the object.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.explanations import compute_maps
from camlens.analyse.shortcuts.interventions import (
    MIN_IMAGES,
    Effect,
    ShortcutProbe,
    compare_without,
    measure_covering,
    measure_pasting,
    screen,
)
from camlens.analyse.shortcuts.patches import CORE, Patch, build_patch, find_patch, match_templates, shrink
from camlens.progress import Work

# The search; the network runs on at most 10,000 images in all
MAX_CLASSES = 75  # those with the most images
MAPPED_IMAGES = 30  # correct images of a class whose maps are computed, and from which a patch is built
OWN_IMAGES = 100  # correct images of a class that are compared with each template
OTHER_IMAGES = 150  # images of other classes, likewise
PEAKS_PER_IMAGE = 8  # positions with the most evidence
PEAK_DISTANCE = 3  # pixels of a small copy between two peaks
FALSE_MATCHES = 0.02  # fraction of the images of other classes that count as having a patch; it sets the threshold
CANDIDATES_PER_CLASS = 3
MAX_SCREENED = 30  # candidates
MIN_SCREENED_EFFECT = 0.05  # of the mean probability of the class, from which a candidate is tested
MAX_TESTED = 5  # candidates

# What the lower end of each interval must exceed; chosen on networks that the benchmark leaves out
MIN_PASTING_EFFECT = 0.1
MIN_COVERING_EFFECT = 0.1
MIN_ACCURACY_LOSS = 0.15  # without the patch


@dataclass(frozen=True)
class Shortcut:
    """A patch by which the network recognises a class.

    Attributes:
        class_name: The class.
        patch: The patch, and the images in which it was found: training images, or without these test images.
        pasted: Fraction of images of other classes that become the class; control: the more effective of patches from
            the class's own images and from others.
        covered: Decrease of the class's probability in its own images if the patch is covered; control: another region.
        missing: Accuracy on the class's images with the patch; control: on its test images without it. None if there
            are fewer than `MIN_COMPARED` of either.
        examples: Some test images of other classes that become the class: their indices, (n,) int64, and the corners
            (n, 2) at which the patch was pasted in.
    """

    class_name: str
    patch: Patch
    pasted: Effect
    covered: Effect
    missing: Effect | None
    examples: tuple[Tensor, Tensor]

    @property
    def excesses(self) -> tuple[float, float, float]:
        """How far the lower end of each difference's interval is above its threshold; -1 if it was not measured."""
        missing = -1.0 if self.missing is None else self.missing.interval[0] - MIN_ACCURACY_LOSS
        pasted, covered = self.pasted.interval[0] - MIN_PASTING_EFFECT, self.covered.interval[0] - MIN_COVERING_EFFECT
        return pasted, covered, missing

    @property
    def holds(self) -> tuple[bool, ...]:
        """Which of the three hold: pasting suffices, covering harms, without it worse."""
        return tuple(excess > 0 for excess in self.excesses)

    @property
    def is_alarm(self) -> bool:
        """Whether all three hold."""
        return all(self.holds)

    @property
    def sentence(self) -> str:
        """The patch and the three effects in words."""
        name = self.class_name
        effects = [
            f"Pasted into {self.pasted.images} images of other classes, it changes the prediction of "
            f"{percent(self.pasted.value)} of them to {name} (other patches {percent(self.pasted.control)})",
            f"covering it lowers the probability of {name} in its images by {round(100 * self.covered.value)} points "
            f"(covering another region {round(100 * self.covered.control)})",
        ]
        if self.missing is not None:
            effects.append(
                f"{percent(self.missing.value)} of the images with it are classified correctly, "
                f"{percent(self.missing.control)} without it"
            )
        verdict = "A shortcut: a patch" if self.is_alarm else "A strong cue: is it part of the object? A patch"
        return f"{verdict} in images of {name}. {'; '.join(effects)}."


@dataclass(frozen=True)
class Shortcuts:
    """The result of a search.

    Attributes:
        found: Shortcuts, then strong cues.
        tested: All patches with all three interventions.
        passes: Number of images on which the network was run.
        note: One sentence on the result.
    """

    found: list[Shortcut]
    tested: list[Shortcut]
    passes: int
    note: str


RESULT_TYPES = Shortcuts, Shortcut, Patch, Effect  # the classes in a result of `find_shortcuts`


def percent(share: float) -> str:
    """A fraction in words: "42 %"."""
    return f"{100 * share:.0f} %"


def find_shortcuts(test: Evaluation, search: Evaluation | None = None, seed: int = 0) -> Shortcuts:
    """Search for shortcuts. The network runs on 10,000 images at most.

    Args:
        test: The network's evaluation on the test set.
        search: Its evaluation on the training images, in which patches are searched; by default on the test set.
        seed: Of all random numbers.
    """
    probe = ShortcutProbe(test, search or test, torch.Generator().manual_seed(seed))
    counts = torch.bincount(probe.search.labels, minlength=len(test.data.class_names))
    classes = counts.argsort(descending=True, stable=True)[:MAX_CLASSES].tolist()
    candidates = []
    with Work("looking for patches that give a class away", len(classes)) as work:
        for class_index in classes:
            candidates += find_candidates(probe, class_index)
            work.step()
    candidates.sort(key=lambda candidate: candidate[0], reverse=True)
    screened = []
    for _, class_index, patch in candidates[:MAX_SCREENED]:
        if (effect := screen(probe, class_index, patch)) > MIN_SCREENED_EFFECT:
            screened.append((effect, class_index, patch))
    screened.sort(key=lambda candidate: candidate[0], reverse=True)
    tested = [measure_effects(probe, class_index, patch) for _, class_index, patch in screened[:MAX_TESTED]]
    shortcuts = sorted(
        (t for t in tested if sum(t.holds) >= 2), key=lambda t: (t.is_alarm, t.pasted.difference), reverse=True
    )
    note = (
        f"{len(candidates)} patches were tried, {len(tested)} of them with all three interventions "
        f"({probe.passes:,} forward passes)."
    )
    return Shortcuts(shortcuts, tested, probe.passes, note if shortcuts else f"None was found: {note}")


def find_candidates(probe: ShortcutProbe, class_index: int) -> list[tuple[float, int, Patch]]:
    """Find patches that correct images of a class share and other images do not have.

    Returns:
        For each patch: the fraction of the class's images that have it, less that of other images; class; patch.
    """
    own_indices = probe.correct_images(class_index)[:OWN_IMAGES]
    other_indices = probe.draw((probe.search.labels != class_index).nonzero()[:, 0], OTHER_IMAGES)
    if len(own_indices) < 2 * MIN_IMAGES or len(other_indices) < 2 * MIN_IMAGES:
        return []
    images, others = probe.search.input_images(own_indices), probe.search.input_images(other_indices)
    copies = shrink(images)
    templates = windows_with_evidence(probe, own_indices[:MAPPED_IMAGES], class_index, copies[:MAPPED_IMAGES])
    differences, corners = match_templates(templates, copies)  # (P, n)
    other_differences, _ = match_templates(templates, shrink(others))
    has_patch = differences <= other_differences.quantile(FALSE_MATCHES, dim=1, keepdim=True)
    excess = has_patch.float().mean(dim=1) - FALSE_MATCHES
    candidates: list[tuple[float, int, Patch]] = []
    chosen: list[Tensor] = []  # for each patch, the images that have it
    for row in excess.argsort(descending=True).tolist():
        has_it = has_patch[row]
        if len(candidates) == CANDIDATES_PER_CLASS or int(has_it.sum()) < MIN_IMAGES:
            break
        if all(float((has_it & other).sum() / (has_it | other).sum()) < 0.5 for other in chosen):
            chosen.append(has_it)
            rows = has_it.nonzero()[:MAPPED_IMAGES, 0]
            patch = build_patch(images[rows], own_indices[rows], corners[row][rows], others)
            candidates.append((float(excess[row]), class_index, patch))
    return candidates


def windows_with_evidence(probe: ShortcutProbe, indices: Tensor, class_index: int, copies: Tensor) -> Tensor:
    """The windows of images with the most evidence for a class, (P, C, CORE, CORE).

    Args:
        probe: The evaluations.
        indices: The images, (n,) int64.
        class_index: The class.
        copies: Their small copies, (n, C, H, W), from which the windows are taken.
    """
    targets = torch.full((len(indices), 1), class_index)
    probe.passes += len(indices)
    evidence = torch.zeros(len(indices), *copies.shape[2:])
    for maps in compute_maps(probe.search, indices, targets).values():
        positive = maps.clamp(min=0)
        positive = positive / positive.mean(dim=(2, 3), keepdim=True).clamp(min=1e-12)
        evidence += F.interpolate(positive, copies.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    sums = F.avg_pool2d(evidence[:, None], CORE, 1)  # (n, 1, h, w)
    is_peak = sums == F.max_pool2d(sums, PEAK_DISTANCE, 1, PEAK_DISTANCE // 2)
    peaks = (sums * is_peak).flatten(1).topk(min(PEAKS_PER_IMAGE, sums[0].numel()), dim=1).indices  # (n, p)
    windows = F.unfold(copies, CORE)  # (n, C CORE CORE, positions)
    templates = windows.gather(2, peaks[:, None].expand(-1, len(copies[0]) * CORE * CORE, -1))
    return templates.transpose(1, 2).reshape(-1, len(copies[0]), CORE, CORE)


def measure_effects(probe: ShortcutProbe, class_index: int, patch: Patch) -> Shortcut:
    """All three interventions."""
    other_indices = probe.draw((probe.search.labels != class_index).nonzero()[:, 0], OTHER_IMAGES)
    limit = float(find_patch(patch, probe.search.input_images(other_indices))[0].quantile(FALSE_MATCHES))
    pasted, examples = measure_pasting(probe, class_index, patch)
    return Shortcut(
        class_name=probe.test.data.class_names[class_index],
        patch=patch,
        pasted=pasted,
        covered=measure_covering(probe, class_index, patch, limit),
        missing=compare_without(probe, class_index, patch, limit),
        examples=examples,
    )
