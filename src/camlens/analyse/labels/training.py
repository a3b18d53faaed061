"""Doubt in training labels: by the margins during training, or by the features of another network."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.training_images import NeighbourSearch
from camlens.data.dataset import BATCH_SIZE, Dataset
from camlens.errors import CamlensError, DataError, ModelError, UsageError
from camlens.model.classifier import Classifier
from camlens.progress import track
from camlens.runtime.predict import Predictions
from camlens.train.margins import Margins, margins_and_rivals
from camlens.train.run_folder import RunFolder, describe_data

FOLDS = 5
STRENGTH = 1.0  # of the L2 penalty of the logistic regression, as with scikit-learn's C=1
MAX_STEPS = 200  # of L-BFGS
LEFT_OUT = -1  # in place of a label


@dataclass(frozen=True)
class RankedLabels:
    """How doubtful the labels of N training images are.

    Attributes:
        data: The images, with the labels that are ranked.
        doubt: (N,) float64: the fraction, 0 to 1, of the images ranked together whose labels are less doubtful; with a
            second opinion, the result of `label_doubt`.
        suggested: (N,) int64, the most probable class besides the label; for a run, the one that was it in most epochs.
        history: (epochs, N) float32, the margin of each label in each epoch, in logits; None without a run.
        how: The method in words.
    """

    data: Dataset
    doubt: Tensor
    suggested: Tensor
    history: Tensor | None
    how: str

    @property
    def order(self) -> Tensor:
        """The images, the most doubtful labels first: (N,) int64."""
        return self.doubt.argsort(descending=True, stable=True)


def fraction_below(values: Tensor) -> Tensor:
    """For each value (n,), the fraction of all values that are smaller, ties counted by half: (n,) float64."""
    ordered, values = values.double().sort().values, values.double()
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * len(values))


def read_run(folder: RunFolder, data: Dataset) -> Margins:
    """Read the margins of a run and check that they are those of these images.

    Raises:
        UsageError: There is no run, it has no margins, or it has not finished an epoch.
        DataError: It was trained on other images.
    """
    config = folder.read_config()
    mixes = {name: getattr(config.recipe, name) for name in ("mixup", "cutmix") if getattr(config.recipe, name)}
    if mixes:
        mixed = " and ".join(f"{name} {value:g}" for name, value in mixes.items())
        unset = " ".join(f"--set {name}=0" for name in mixes)
        raise UsageError(
            f"the recipe of {folder} mixes images ({mixed}), so no logit tells of one image and its label alone: train "
            f"with {unset}, or judge by features that have not seen these labels: --features MODEL"
        )
    if not folder.margins.exists():
        raise UsageError(
            f"{folder} has no {folder.margins.name}: no epoch is done, or an older version trained it; go on with "
            "camlens train --resume, or train anew in another --out"
        )
    recorded = Margins.load(folder.margins)
    if len(recorded.labels) != len(data):
        raise DataError(f"{folder} was trained on {len(recorded.labels):,} images; {data.name} has {len(data):,}")
    trained = data.with_labels(recorded.labels)
    if describe_data(trained, "")["sha256"] != config.data["sha256"]:
        raise DataError(f"{folder} was trained on other images than {data.name}, {data.split}; give its --data")
    return recorded


def doubt_of_run(run: Path, data: Dataset) -> Tensor | None:
    """The doubt in labels, (N,), by the margins of a run; None if it has none, or used other images or labels."""
    try:
        recorded = read_run(RunFolder(run), data) if run.is_dir() else None
    except CamlensError:
        return None
    return rank_by_margins(recorded, data).doubt if recorded and torch.equal(recorded.labels, data.labels) else None


def rank_by_margins(recorded: Margins, data: Dataset) -> RankedLabels:
    """Rank labels by their mean margin over the epochs of a run.

    AUM, Pleiss et al. 2020, arXiv 2001.10528, without its threshold samples. The margins of held-out images, which were
    not trained on, have another scale, so these images are ranked among themselves.

    Args:
        recorded: The margins; each image has one in at least one epoch.
        data: The images.
    """
    mean = recorded.margins.double().nanmean(dim=0).nan_to_num(0.0)
    doubt = torch.empty(len(data), dtype=torch.float64)
    for group in (recorded.held_out, ~recorded.held_out):
        doubt[group] = fraction_below(-mean[group])
    epochs, held_out = len(recorded.margins), int(recorded.held_out.sum())
    how = f"by the mean margin of the label over {epochs} epochs of training"
    how += f"; {held_out:,} images that were held out are ranked among themselves" if held_out else ""
    votes = torch.zeros(len(data), len(data.class_names))
    for rivals in recorded.rivals:
        votes[torch.arange(len(data))[rivals >= 0], rivals[rivals >= 0]] += 1
    votes.scatter_(1, recorded.labels[:, None], -1.0)
    return RankedLabels(data.with_labels(recorded.labels), doubt, votes.argmax(dim=1), recorded.margins, how)


def rank_by_features(model: Classifier, predictions: Predictions, data: Dataset, seed: int = 0) -> RankedLabels:
    """Rank labels by the out-of-fold probabilities of a logistic regression on frozen features.

    Such probabilities are the first step of Northcutt et al. 2021, "Confident Learning", arXiv 1911.00068.

    Args:
        model: The network, which must not have been trained on these labels.
        predictions: Its features for the images.
        data: The images.
        seed: Of the folds.

    Raises:
        DataError: A class has only one image, so that a fold would be predicted without this class.
        ModelError: The network has no features.
    """
    if predictions.features is None:
        raise ModelError(f"{model.name} does not end in a linear layer, so it has no features; give another --features")
    rare_classes = [name for name, count in zip(data.class_names, data.counts(), strict=True) if count == 1]
    if rare_classes:
        raise DataError(
            f"{data.name} has 1 image of {', '.join(rare_classes)}; to judge labels it takes 2 or more of each class"
        )
    probabilities = predict_out_of_fold(predictions.features, data.labels, len(data.class_names), seed)
    margin, suggested = margins_and_rivals(probabilities, data.labels)
    how = f"by logistic regression on the features of {model.name}, in {FOLDS} folds"
    return RankedLabels(data, fraction_below(-margin), suggested, None, how)


def nearest_others(features: Tensor, indices: Tensor, count: int = 6) -> Tensor:
    """The other images with the features most similar to those of each image: (n, count), the nearest first.

    Args:
        features: (N, C) of all images.
        indices: The images, (n,).
        count: Number of neighbours, or all others if there are fewer.
    """
    neighbours = NeighbourSearch(features).nearest(features[indices], count + 1).indices
    others = [row[row != index][:count] for row, index in zip(neighbours, indices.tolist(), strict=True)]
    return torch.stack([row[: neighbours.shape[1] - 1] for row in others])


def predict_out_of_fold(features: Tensor, labels: Tensor, classes: int, seed: int = 0) -> Tensor:
    """Probabilities (N, K) of each image by a logistic regression that is fitted to the other folds.

    Args:
        features: (N, C).
        labels: (N,) int64; each class that occurs has two or more images.
        classes: K.
        seed: Of the folds, which are stratified by class.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = shuffled[labels[shuffled].argsort(stable=True)]
    folds = torch.empty_like(labels)
    folds[shuffled] = torch.arange(len(labels)) % FOLDS  # stratified, as `shuffled` is in the order of the classes
    probabilities = torch.empty(len(labels), classes, dtype=torch.float64)
    for fold in track(folds.unique(), "fitting to the other folds"):
        regression = fit_logistic(features, labels.masked_fill(folds == fold, LEFT_OUT), classes)
        for indices in (folds == fold).nonzero()[:, 0].split(BATCH_SIZE):
            probabilities[indices] = regression(features[indices]).double().softmax(dim=1)
    return probabilities


def fit_logistic(features: Tensor, labels: Tensor, classes: int, strength: float = STRENGTH) -> "Logistic":
    """Fit a multinomial logistic regression by L-BFGS.

    It minimises the sum of the cross-entropies plus `strength` / 2 times the sum of the squared weights, on features
    scaled to mean 0 and standard deviation 1; the biases are not penalised. The features are scaled block by block in
    each step, so that memory-mapped ones are never in memory as a whole.

    Args:
        features: (n, C).
        labels: (n,) int64; `LEFT_OUT` for images that are left out, except that their features count for the scale.
        classes: K.
        strength: Of the penalty, above 0.
    """
    std, mean = torch.std_mean(features, dim=0, correction=0)
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    regression, count = Logistic(weight, bias, mean, std.clamp(min=1e-6)), int((labels != LEFT_OUT).sum())
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        penalty = strength * weight.square().sum() / (2 * count)
        penalty.backward()
        value = penalty.detach()
        for rows, of_rows in zip(features.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            of_block = F.cross_entropy(regression(rows), of_rows, ignore_index=LEFT_OUT, reduction="sum") / count
            of_block.backward()
            value += of_block.detach()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return Logistic(weight.detach(), bias.detach(), mean, regression.std)


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression: called with features (n, C), it returns logits (n, K).

    Attributes:
        weight: (K, C), of features with mean 0 and standard deviation 1.
        bias: (K,).
        mean, std: (C,), of the features that it was fitted to.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """The logits (n, K) of features (n, C)."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)
