"""Interventions on a local mark: pasted into other pictures, covered in its own, and images that lack it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.evaluation import Evaluation, wilson_interval
from camlens.analyse.patches import Mark, cover, cut, find_mark, paste
from camlens.analyse.trials import network_images
from camlens.runtime.predict import predict

SCREENED, TESTED = 30, 200  # pictures of each experiment
FEWEST = 5  # images with a mark
KNOWN = 10  # images with and without it from which their rates are compared
SHOWN = 6  # pictures of each kind


@dataclass(frozen=True)
class Effect:
    """What a mark does, beside a control.

    Attributes:
        value: Mean with the mark, 0 to 1.
        control: Mean of the control.
        interval: Of the difference, at 95 %.
        images: Number of images.
    """

    value: float
    control: float
    interval: tuple[float, float]
    images: int

    @property
    def difference(self) -> float:
        """With the mark less the control."""
        return self.value - self.control


@dataclass
class Experiment:
    """The network, the images and how often it was run.

    Attributes:
        test: The evaluation on the test set.
        known: That on the images in which marks are looked for: those of training, or the same.
        generator: Of all that is drawn at random.
        passes: Images that the network was run on.
    """

    test: Evaluation
    known: Evaluation
    generator: torch.Generator
    passes: int = 0

    def draw(self, indices: Tensor, count: int) -> Tensor:
        """At most `count` of the indices, at random."""
        return indices[torch.randperm(len(indices), generator=self.generator)[:count]]

    def right(self, class_index: int) -> Tensor:
        """The known images of a class that are right, (n,) int64, in random order."""
        known = self.known
        return self.draw((~known.wrong & (known.labels == class_index)).nonzero()[:, 0], len(known.labels))

    def others(self, class_index: int, count: int) -> Tensor:
        """Test pictures of other classes that are not called this one, at random."""
        test = self.test
        return self.draw(((test.labels != class_index) & (test.predictions != class_index)).nonzero()[:, 0], count)

    def probabilities(self, images: Tensor, class_index: int) -> tuple[Tensor, Tensor]:
        """For edited images (B, C, H, W): the class's probability (B,), and whether it is predicted."""
        self.passes += len(images)
        logits = predict(self.test.model, images, description="testing marks").logits
        return self.test.model.probabilities(logits)[:, class_index], logits.argmax(dim=1) == class_index


def pictures(evaluation: Evaluation, indices: Tensor) -> Tensor:
    """Images as the network is shown them, (n, C, H, W) uint8."""
    return network_images(evaluation.model, evaluation.data.images(indices))


def controls(experiment: Experiment, mark: Mark, class_index: int, count: int) -> tuple[Tensor, Tensor]:
    """Patches of a mark's size from random places, (count, C, h, w) each: of the class's own images, and of others'."""
    labels = experiment.known.labels
    height, width = mark.mask.shape
    drawn = []
    for is_own in (True, False):
        among = ((labels == class_index) == is_own).nonzero()[:, 0]
        among = among[~torch.isin(among, mark.sources)] if is_own and len(among) > 2 * len(mark.sources) else among
        images = pictures(experiment.known, experiment.draw(among, count))
        chance = torch.rand(len(images), 2, generator=experiment.generator)
        room = torch.tensor([max(1, images.shape[2] - height + 1), max(1, images.shape[3] - width + 1)])
        patches = cut(images, (chance * room).long(), (height, width)).nan_to_num()
        drawn.append(patches[torch.arange(count) % len(patches)])
    return drawn[0], drawn[1]


def places_for(mark: Mark, count: int) -> Tensor:
    """Places at which a mark is pasted, (count, 2): those where it was found, in turn."""
    return mark.places[torch.arange(count) % len(mark.places)]


def screen(experiment: Experiment, class_index: int, mark: Mark) -> float:
    """By how much a mark raises the class's mean probability in a few pictures, above the better control."""
    images = pictures(experiment.test, experiment.others(class_index, SCREENED))
    if not len(images):
        return 0.0
    places = places_for(mark, len(images))
    looks = [mark.look, *controls(experiment, mark, class_index, len(images))]
    means = [
        float(experiment.probabilities(paste(images, look, mark.mask, places), class_index)[0].mean()) for look in looks
    ]
    return means[0] - max(means[1:])


def try_pasting(experiment: Experiment, class_index: int, mark: Mark) -> tuple[Effect, tuple[Tensor, Tensor]]:
    """Fraction of other classes' pictures that become the class, against the better control; and some of them."""
    indices = experiment.others(class_index, TESTED)
    images = pictures(experiment.test, indices)
    places = places_for(mark, len(images))
    looks = [mark.look, *controls(experiment, mark, class_index, len(images))]
    becomes = [
        experiment.probabilities(paste(images, look, mark.mask, places), class_index)[1].float() for look in looks
    ]
    turned = (becomes[0] > 0).nonzero()[:SHOWN, 0]
    effect = paired(becomes[0], max(becomes[1:], key=lambda values: float(values.mean())))
    return effect, (indices[turned], places[turned])


def try_covering(experiment: Experiment, class_index: int, mark: Mark, limit: float) -> Effect:
    """Fall of the class's probability in right images of its own, the mark covered, against another place covered."""
    own = experiment.right(class_index)[: 5 * TESTED]
    unlike, places = find_mark(mark, pictures(experiment.known, own))
    chosen = (unlike <= limit).nonzero()[:TESTED, 0]
    chosen = chosen if len(chosen) >= FEWEST else unlike.argsort()[:FEWEST]
    images, places = pictures(experiment.known, own[chosen]), places[chosen]
    room = torch.tensor([max(1, side - part + 1) for side, part in zip(images.shape[2:], mark.mask.shape, strict=True)])
    steps = (0.3 + 0.4 * torch.rand(len(images), 2, generator=experiment.generator)) * room
    elsewhere = (places.clamp(min=0) + steps.long()) % room
    before = experiment.known.probabilities[own[chosen], class_index]
    falls = [
        before - experiment.probabilities(cover(images, mark.mask, at), class_index)[0] for at in (places, elsewhere)
    ]
    return paired(falls[0], falls[1])


def compare_without(experiment: Experiment, class_index: int, mark: Mark, limit: float) -> Effect | None:
    """Fraction right of the class's images with the mark, against those without it in the test set.

    If too few test images have the mark, the known ones that have it are taken, less what other classes lose from the
    known images to the test set.
    """
    right, has = [], []
    for evaluation in (experiment.test, experiment.known):
        own = (evaluation.labels == class_index).nonzero()[:, 0]
        right.append((~evaluation.wrong[own]).float())
        has.append(torch.cat([find_mark(mark, pictures(evaluation, part))[0] for part in own.split(500)]) <= limit)
    having, without, lost = right[0][has[0]], right[0][~has[0]], 0.0
    if len(having) < KNOWN:
        having, lost = right[1][has[1]], lost_by_others(experiment, class_index)
    if min(len(having), len(without)) < KNOWN:
        return None
    with_it, without_it = float(having.mean()), float(without.mean())
    ends = [wilson_interval(int(rights.sum()), len(rights)) for rights in (having, without)]
    below = ((with_it - ends[0][0]) ** 2 + (ends[1][1] - without_it) ** 2) ** 0.5  # Newcombe 1998, method 10
    above = ((ends[0][1] - with_it) ** 2 + (without_it - ends[1][0]) ** 2) ** 0.5
    difference = with_it - without_it - lost
    return Effect(with_it, without_it, (difference - below, difference + above), len(without))


def lost_by_others(experiment: Experiment, class_index: int) -> float:
    """How much less often the other classes' images are right in the test set than in the known images, 0 to 1."""
    known, test = (
        float((~evaluation.wrong[evaluation.labels != class_index]).float().mean())
        for evaluation in (experiment.known, experiment.test)
    )
    return max(0.0, known - test)


def paired(values: Tensor, control: Tensor) -> Effect:
    """Means of values (n,) and of their controls, and the interval of the difference by its standard error."""
    difference = (values - control).double()
    middle = float(difference.mean())
    half = 1.96 * float(difference.std()) / len(difference) ** 0.5 if len(difference) > 1 else 1.0
    return Effect(float(values.mean()), float(control.mean()), (middle - half, middle + half), len(values))
