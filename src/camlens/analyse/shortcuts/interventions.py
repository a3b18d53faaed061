"""Interventions on a local patch: pasted into other images, covered in its own, and images without it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.shortcuts.patches import Patch, cover_patch, crop, find_patch, paste
from camlens.analyse.statistics import wilson_interval
from camlens.runtime.predict import predict

SCREENING_IMAGES = 30  # images into which a patch is pasted to screen it
TEST_IMAGES = 200  # images of each test
MIN_IMAGES = 5  # images that have a patch
MIN_COMPARED = 10  # images with the patch, and images without it, whose accuracies are compared
MAX_EXAMPLES = 6  # images of each kind for display


@dataclass(frozen=True)
class Effect:
    """The effect of an intervention, and of its control.

    Attributes:
        value: Mean with the intervention, 0 to 1.
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
        """`value` minus `control`."""
        return self.value - self.control


@dataclass
class ShortcutProbe:
    """The evaluations and the random numbers of a search for shortcuts; it counts the forward passes.

    Attributes:
        test: The evaluation on the test set.
        search: The evaluation on the images in which patches are searched: the training set, or the test set again.
        generator: Of all random numbers.
        passes: Number of images on which the network was run.
    """

    test: Evaluation
    search: Evaluation
    generator: torch.Generator
    passes: int = 0

    def draw(self, indices: Tensor, count: int) -> Tensor:
        """At most `count` of the indices, at random."""
        return indices[torch.randperm(len(indices), generator=self.generator)[:count]]

    def correct_images(self, class_index: int) -> Tensor:
        """The correctly predicted images of a class among those that are searched, (n,) int64, in random order."""
        search = self.search
        return self.draw((~search.wrong & (search.labels == class_index)).nonzero()[:, 0], len(search.labels))

    def other_images(self, class_index: int, count: int) -> Tensor:
        """At most `count` test images of other classes that are not predicted as this one, at random."""
        test = self.test
        return self.draw(((test.labels != class_index) & (test.predictions != class_index)).nonzero()[:, 0], count)

    def predict(self, images: Tensor, class_index: int) -> tuple[Tensor, Tensor]:
        """For edited images (B, C, H, W): the probability of the class, (B,), and whether it is predicted, (B,)."""
        self.passes += len(images)
        logits = predict(self.test.model, images, description="testing patches").logits
        return self.test.model.probabilities(logits)[:, class_index], logits.argmax(dim=1) == class_index


def control_patches(probe: ShortcutProbe, patch: Patch, class_index: int, count: int) -> tuple[Tensor, Tensor]:
    """Patches of this size at random positions: of the class's own images, and of others, (count, C, h, w) each."""
    labels = probe.search.labels
    height, width = patch.mask.shape
    patches = []
    for is_own in (True, False):
        indices = ((labels == class_index) == is_own).nonzero()[:, 0]
        if is_own and len(indices) > 2 * len(patch.sources):
            indices = indices[~torch.isin(indices, patch.sources)]
        images = probe.search.input_images(probe.draw(indices, count))
        fractions = torch.rand(len(images), 2, generator=probe.generator)
        positions = torch.tensor([max(1, images.shape[2] - height + 1), max(1, images.shape[3] - width + 1)])
        crops = crop(images, (fractions * positions).long(), (height, width)).nan_to_num()
        patches.append(crops[torch.arange(count) % len(crops)])
    return patches[0], patches[1]


def predict_pasted(
    probe: ShortcutProbe, class_index: int, patch: Patch, indices: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Paste a patch, and both controls, into test images.

    Args:
        probe: The evaluations.
        class_index: The class of the patch.
        patch: The patch.
        indices: The images, (n,) int64.

    Returns:
        For the patch, then for each control, what `ShortcutProbe.predict` returns.
    """
    images = probe.test.input_images(indices)
    corners = patch.corners[torch.arange(len(images)) % len(patch.corners)]
    versions = [patch.pixels, *control_patches(probe, patch, class_index, len(images))]
    return [probe.predict(paste(images, pixels, patch.mask, corners), class_index) for pixels in versions]


def screen(probe: ShortcutProbe, class_index: int, patch: Patch) -> float:
    """How much more a pasted patch raises the mean probability of the class than the better control, in few images."""
    indices = probe.other_images(class_index, SCREENING_IMAGES)
    if not len(indices):
        return 0.0
    pasted = predict_pasted(probe, class_index, patch, indices)
    mean, *controls = (float(probabilities.mean()) for probabilities, _ in pasted)
    return mean - max(controls)


def measure_pasting(probe: ShortcutProbe, class_index: int, patch: Patch) -> tuple[Effect, tuple[Tensor, Tensor]]:
    """Fraction of images of other classes that become the class when the patch is pasted in.

    Returns:
        The effect, with the better of both controls; and for some of the images that become the class their indices,
        (n,), and the corners of the patch, (n, 2).
    """
    indices = probe.other_images(class_index, TEST_IMAGES)
    pasted = predict_pasted(probe, class_index, patch, indices)
    becomes, *controls = (is_predicted.float() for _, is_predicted in pasted)
    examples = becomes.nonzero()[:MAX_EXAMPLES, 0]
    effect = paired_effect(becomes, max(controls, key=lambda values: float(values.mean())))
    return effect, (indices[examples], patch.corners[examples % len(patch.corners)])


def measure_covering(probe: ShortcutProbe, class_index: int, patch: Patch, limit: float) -> Effect:
    """How much covering the patch decreases the probability of the class in its correct images.

    The control is another region of the same size.

    Args:
        probe: The evaluations.
        class_index: The class.
        patch: The patch.
        limit: Largest difference (`find_patch`) at which an image has the patch.
    """
    indices = probe.correct_images(class_index)[: 5 * TEST_IMAGES]
    differences, corners = find_patch(patch, probe.search.input_images(indices))
    chosen = (differences <= limit).nonzero()[:TEST_IMAGES, 0]
    chosen = chosen if len(chosen) >= MIN_IMAGES else differences.argsort()[:MIN_IMAGES]
    images, corners = probe.search.input_images(indices[chosen]), corners[chosen]
    sides = zip(images.shape[2:], patch.mask.shape, strict=True)
    positions = torch.tensor([max(1, side - part + 1) for side, part in sides])
    shifts = (0.3 + 0.4 * torch.rand(len(images), 2, generator=probe.generator)) * positions
    elsewhere = (corners.clamp(min=0) + shifts.long()) % positions
    before = probe.search.probabilities[indices[chosen], class_index]
    decreases = [
        before - probe.predict(cover_patch(images, patch.mask, at), class_index)[0] for at in (corners, elsewhere)
    ]
    return paired_effect(*decreases)


def compare_without(probe: ShortcutProbe, class_index: int, patch: Patch, limit: float) -> Effect | None:
    """Accuracy on the class's test images with the patch, and as the control on those without it.

    If too few test images have the patch, those of the searched images are taken that have it, and the difference is
    corrected by the generalisation gap of the other classes.

    Args:
        probe: The evaluations.
        class_index: The class.
        patch: The patch.
        limit: Largest difference (`find_patch`) at which an image has the patch.

    Returns:
        None if one of both groups has fewer than `MIN_COMPARED` images.
    """
    correct, has_patch = [], []
    for evaluation in (probe.test, probe.search):
        indices = (evaluation.labels == class_index).nonzero()[:, 0]
        differences = [find_patch(patch, evaluation.input_images(part))[0] for part in indices.split(500)]
        correct.append((~evaluation.wrong[indices]).float())
        has_patch.append(torch.cat(differences) <= limit)
    with_patch, without_patch, gap = correct[0][has_patch[0]], correct[0][~has_patch[0]], 0.0
    if len(with_patch) < MIN_COMPARED:
        with_patch, gap = correct[1][has_patch[1]], generalisation_gap(probe, class_index)
    if min(len(with_patch), len(without_patch)) < MIN_COMPARED:
        return None
    value, control = float(with_patch.mean()), float(without_patch.mean())
    (low, high), (control_low, control_high) = (
        wilson_interval(int(group.sum()), len(group)) for group in (with_patch, without_patch)
    )
    below = ((value - low) ** 2 + (control_high - control) ** 2) ** 0.5  # Newcombe 1998, method 10
    above = ((high - value) ** 2 + (control - control_low) ** 2) ** 0.5
    difference = value - control - gap
    return Effect(value, control, (difference - below, difference + above), len(without_patch))


def generalisation_gap(probe: ShortcutProbe, class_index: int) -> float:
    """How much lower the accuracy of all other classes is on the test set than on the searched images, 0 to 1."""
    search, test = (
        float((~evaluation.wrong[evaluation.labels != class_index]).float().mean())
        for evaluation in (probe.search, probe.test)
    )
    return max(0.0, search - test)


def paired_effect(values: Tensor, control: Tensor) -> Effect:
    """The effect by values (n,) and paired controls (n,), with the interval by the standard error of the difference."""
    difference = (values - control).double()
    mean = float(difference.mean())
    half = 1.96 * float(difference.std()) / len(difference) ** 0.5 if len(difference) > 1 else 1.0
    return Effect(float(values.mean()), float(control.mean()), (mean - half, mean + half), len(values))
