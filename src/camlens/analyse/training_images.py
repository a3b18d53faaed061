"""Training images related to an error: the nearest, those with the strongest influence, and near-duplicates.

Influence: for one image with the cross-entropy loss L, the last linear layer's input f (C,) and the residual
r = softmax(logits) - onehot(label) (K,), the gradients are dL/dW = r f^T and dL/db = r. The dot product of the
gradients of two images is therefore (r . r')(f . f' + 1). A step of gradient descent on the training image changes the
loss of the error by minus that product times the learning rate:

    TracIn, Pruthi et al. 2020, arXiv 2002.08484, for one checkpoint and the last layer.

Here it is divided by the norms of both gradients, which makes it a cosine similarity:

    GAS, Hammoudeh and Lowd 2022, arXiv 2201.10055, for one checkpoint and the last layer.

Otherwise a few training images with large residuals would be at the top of every list.
"""

from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.edits import gaussian_blur
from camlens.analyse.evaluation import Evaluation
from camlens.data.dataset import BATCH_SIZE, Dataset
from camlens.data.pictures import resize
from camlens.model.temperature import probabilities
from camlens.progress import Work, track
from camlens.runtime.predict import Predictions

CANDIDATES = 64  # training images for each error from which a list is chosen
MAX_FRACTION = 0.05  # of the lists of one kind that may contain the same training image
QUERIES = 256  # images compared at a time
ROWS = 20_000  # training images that they are compared with at a time

# Near-duplicates
SIDE = 32  # pixels, the size at which images are compared
NEAREST_BY_FEATURES = 20  # training images compared with each image
NEAREST_BY_THUMBNAIL = 10  # further ones
SIGMA = 3.0  # pixels, standard deviation of the blur that is subtracted
MAX_SHIFT = 3  # pixels by which a copy may be shifted
CORRECT_IMAGES = 200  # correctly predicted images, about, by which the threshold is set
MIN_CORRECT = 20  # with fewer, there is no threshold


@dataclass(frozen=True)
class RankedImages:
    """Ranked training images for each of E images, the best first.

    Attributes:
        indices: (E, n) int64, indices in the training set; -1 if there are fewer than n.
        scores: (E, n) float32, by which they are ranked; 0 if there is no image.
    """

    indices: Tensor
    scores: Tensor


class NeighbourSearch:
    """Exact search for the training images with the most similar features.

    Similarity is the cosine of two feature vectors after subtracting the mean over the training images; otherwise all
    cosines of features after a ReLU are close to 1.

    Args:
        train_features: (M, C) float32.
    """

    def __init__(self, train_features: Tensor) -> None:
        self.features, self.mean = train_features, column_means(train_features)
        lengths = torch.cat([(rows - self.mean).norm(dim=1) for rows in train_features.split(ROWS)])
        self.lengths = lengths.clamp(min=1e-12)  # (M,), without the mean

    def directions(self, features: Tensor) -> Tensor:
        """Features (N, C) minus the mean over the training images, normalised to length 1."""
        return F.normalize(features - self.mean)

    def cosines(self, features: Tensor, indices: Tensor | None = None) -> Tensor:
        """Cosines of features (N, C) with the training images of these indices (m,), by default all: (N, m)."""
        train_features = self.features if indices is None else self.features[indices]
        return self.directions(features) @ self.directions(train_features).T

    def nearest(self, features: Tensor, count: int) -> RankedImages:
        """The `count` training images, or all if there are fewer, with the largest cosines, for features (N, C)."""
        queries, best = self.directions(features).split(QUERIES), TopK(count)
        blocks = zip(self.features.split(ROWS), self.lengths.split(ROWS), strict=True)
        for block, (rows, lengths) in enumerate(blocks):
            for number, query in enumerate(queries):
                products = query @ rows.T - query @ self.mean[:, None]  # as if the mean were subtracted from the rows
                best.add(number, products / lengths, block * ROWS)
        return best.images


class TopK:
    """The training images with the largest scores for each of E images, computed block by block.

    Args:
        count: Number of training images for each, or all if there are fewer.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.best: dict[int, tuple[Tensor, Tensor]] = {}  # scores and indices, by batch of the E images

    def add(self, batch: int, scores: Tensor, first: int) -> None:
        """Add the scores (e, m) of a batch of the images with the training images from index `first` on."""
        indices = torch.arange(first, first + scores.shape[1]).expand_as(scores)
        if batch in self.best:
            best_scores, best_indices = self.best[batch]
            scores, indices = torch.cat([best_scores, scores], dim=1), torch.cat([best_indices, indices], dim=1)
        top = scores.topk(min(self.count, scores.shape[1]), dim=1)
        self.best[batch] = top.values, indices.gather(1, top.indices)

    @property
    def images(self) -> RankedImages:
        """The result, the batches in the order in which they were added first."""
        scores, indices = (torch.cat(parts) for parts in zip(*self.best.values(), strict=True))
        return RankedImages(indices, scores)


def column_means(features: Tensor) -> Tensor:
    """The mean of features (M, C) over the images, (C,)."""
    sums = [rows.sum(dim=0, dtype=torch.float64) for rows in features.split(ROWS)]
    return (torch.stack(sums).sum(dim=0) / len(features)).float()


def find_neighbours(search: NeighbourSearch, features: Tensor, count: int = 6) -> RankedImages:
    """The nearest training images of E errors with features (E, C), chosen by `limit_reuse`."""
    return limit_reuse(search.nearest(features, CANDIDATES), count)


def limit_reuse(candidates: RankedImages, count: int) -> RankedImages:
    """Choose the best `count` candidates of each row, no image in more than `MAX_FRACTION` of the rows.

    With fewer than 20 rows, an image may be in one. First the first rank of all rows is filled, then the second and so
    on, each time beginning with the row whose best candidate has the highest score.

    Args:
        candidates: (E, c) with decreasing scores.
        count: Length n of the resulting lists.

    Returns:
        The chosen images, (E, n).
    """
    rows = len(candidates.indices)
    limit = max(1, int(MAX_FRACTION * rows))
    indices, scores = torch.full((rows, count), -1), torch.zeros(rows, count)
    pairs = zip(candidates.indices.tolist(), candidates.scores.tolist(), strict=True)
    remaining = [iter(zip(*pair, strict=True)) for pair in pairs]  # of each row, the candidates not yet considered
    order = candidates.scores[:, 0].argsort(descending=True, stable=True).tolist()
    uses: Counter[int] = Counter()
    for rank in range(count):
        for row in order:
            for index, score in remaining[row]:
                if uses[index] < limit:
                    uses[index] += 1
                    indices[row, rank], scores[row, rank] = index, score
                    break
    return RankedImages(indices, scores)


@dataclass(frozen=True)
class Influence:
    """Training images with the strongest influence on each of E errors; scores are cosines of gradients, -1 to 1.

    Attributes:
        towards: The most negative cosines first: a step on these images raises the loss of the error.
        away: The most positive cosines first: a step on these images lowers it.
    """

    towards: RankedImages
    away: RankedImages


def find_influence(
    errors: Predictions, labels: Tensor, train: Predictions, train_labels: Tensor, count: int = 6
) -> Influence:
    """Find the training images with the strongest influence on misclassified images.

    They are chosen by `limit_reuse`.

    Args:
        errors: Predictions with features for E images.
        labels: (E,) their labels.
        train: Predictions with features for the training images.
        train_labels: (M,) their labels.
        count: Length of each list.
    """
    inputs, residuals = gradient_directions(errors, labels)
    lowest, highest = TopK(CANDIDATES), TopK(CANDIDATES)
    for rows in torch.arange(len(train_labels)).split(ROWS):
        train_inputs, train_residuals = gradient_directions(train[rows], train_labels[rows])
        batches = zip(inputs.split(QUERIES), residuals.split(QUERIES), strict=True)
        for number, (batch_inputs, batch_residuals) in enumerate(batches):
            cosines = (batch_inputs @ train_inputs.T) * (batch_residuals @ train_residuals.T)  # (e, m)
            lowest.add(number, -cosines, int(rows[0]))
            highest.add(number, cosines, int(rows[0]))
    towards = limit_reuse(lowest.images, count)
    return Influence(RankedImages(towards.indices, -towards.scores), limit_reuse(highest.images, count))


def gradient_directions(predictions: Predictions, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the last layer's gradient, normalised to length 1: inputs with a 1 for the bias, and residuals.

    The loss is that of training, without the temperature.
    """
    features, logits = predictions.features, predictions.logits
    assert features is not None, "influence needs features"
    residuals = probabilities(logits) - F.one_hot(labels, logits.shape[1])
    return F.normalize(F.pad(features, (0, 1), value=1)), F.normalize(residuals)


def most_similar(
    evaluation: Evaluation, indices: Tensor, train: Dataset, search: NeighbourSearch, excluded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the training image that is most similar to each image.

    Similarity is the mean of two values: the cosine of the centred features, and (c - m) / (1 - m), where c is the
    correlation of the fine structure at the best shift and m the median of c over the candidates, because similar
    objects have correlated structure without being duplicates.

    Args:
        evaluation: Of the images, with features.
        indices: Those to compare, (N,).
        train: The training images.
        search: Over the features of the training images.
        excluded: Label that the training image must not have, (N,), -1 for none.

    Returns:
        The similarity, (N,), and the index of the training image, (N,); both -1 if all candidates are excluded.
    """
    data, features = evaluation.data, evaluation.features
    assert features is not None
    features = features[indices]
    with Work("comparing with the training images"):
        own_thumbnails = torch.cat([thumbnails(images) for images in data.batches(indices=indices)])
        by_thumbnail = TopK(NEAREST_BY_THUMBNAIL)
        for first, images in zip(range(0, len(train), BATCH_SIZE), train.batches(BATCH_SIZE), strict=True):
            train_thumbnails = thumbnails(images)
            for number, batch in enumerate(own_thumbnails.split(QUERIES)):
                by_thumbnail.add(number, batch @ train_thumbnails.T, first)
        by_features = search.nearest(features, NEAREST_BY_FEATURES).indices
        candidates = torch.cat([by_features, by_thumbnail.images.indices], dim=1)  # (N, 30)
    structures = torch.cat([fine_structure(images) for images in data.batches(indices=indices)])
    similarities, matches = torch.empty(len(indices)), torch.empty_like(indices)
    for k, compared in enumerate(track(candidates, "looking for near-duplicates")):
        compared = compared.unique()
        correlation = largest_correlation(structures[k], fine_structure(train.images(compared)))
        excess = (correlation - correlation.median()) / (1 - correlation.median()).clamp(min=1e-6)
        similarity = (excess + search.cosines(features[k : k + 1], compared)[0]) / 2
        if excluded is not None:
            similarity[train.labels[compared] == excluded[k]] = -1
        similarities[k], best = similarity.max(dim=0)
        matches[k] = compared[best]
    return similarities, matches.masked_fill(similarities == -1, -1)


def similarity_beyond_chance(similarities: Tensor) -> float:
    """A threshold that unrelated images do not reach.

    It is the median plus 2.5 times the distance of the tenth percentile from the median: the upper half of the
    distribution, which may contain duplicates, is not used.

    Args:
        similarities: (N,), of some images with the training images most similar to them.
    """
    return float(similarities.median() + 2.5 * (similarities.median() - similarities.quantile(0.1)))


def sample_correct(evaluation: Evaluation) -> Tensor:
    """Indices of about `CORRECT_IMAGES` correctly predicted images, evenly over the data."""
    correct = (~evaluation.wrong).nonzero()[:, 0]
    return correct[:: max(1, len(correct) // CORRECT_IMAGES)]


def find_duplicates(evaluation: Evaluation, errors: Tensor, train: Dataset, search: NeighbourSearch) -> Tensor:
    """Find near-duplicates of errors among the training images with another label.

    The threshold is set by some correctly predicted images; with fewer than `MIN_CORRECT`, no duplicates are found.

    Args:
        evaluation: Of the images, with features.
        errors: (E,) indices of errors.
        train: The training images.
        search: Over their features.

    Returns:
        Indices of the near-duplicates, (E,), -1 for none.
    """
    correct = sample_correct(evaluation)
    indices = torch.cat([errors, correct])
    excluded = torch.cat([evaluation.labels[errors], torch.full_like(correct, -1)])
    similarities, matches = most_similar(evaluation, indices, train, search, excluded)
    of_errors, of_correct = similarities.split([len(errors), len(correct)])
    threshold = similarity_beyond_chance(of_correct) if len(correct) >= MIN_CORRECT else torch.inf
    return matches[: len(errors)].masked_fill(of_errors < threshold, -1)


def thumbnails(pixels: Tensor) -> Tensor:
    """Grey thumbnails of 8x8 pixels, minus their mean, normalised to length 1: (N, 3, H, W) uint8 -> (N, 64)."""
    grey = F.adaptive_avg_pool2d(pixels.float().mean(1, keepdim=True), 8).flatten(1)
    return F.normalize(grey - grey.mean(1, keepdim=True))


def fine_structure(pixels: Tensor) -> Tensor:
    """Images (N, C, H, W) uint8, resized to 32x32, minus a Gaussian blur of them: (N, C, 32, 32)."""
    images = resize(pixels, (SIDE, SIDE)).float()
    return images - gaussian_blur(images, SIGMA)


def largest_correlation(image: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation of the interior of an image with each other image, at the shift where it is largest.

    Args:
        image: (C, H, W). Its interior is without `MAX_SHIFT` pixels at each edge, so all shifts up to that are tried.
        others: (n, C, H, W).

    Returns:
        (n,), -1 to 1.
    """
    interior = image[:, MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT]
    pattern = F.normalize((interior - interior.mean()).flatten(), dim=0).view_as(interior)
    height, width = interior.shape[1:]
    moments = torch.stack([others.sum(dim=1), others.square().sum(dim=1)], dim=1)  # (n, 2, H, W)
    sums, squares = F.avg_pool2d(F.avg_pool2d(moments, (height, 1), 1), (1, width), 1).unbind(dim=1)
    energy = (squares - sums.square() / len(image)) * interior[0].numel()
    return (F.conv2d(others, pattern[None])[:, 0] / energy.clamp(min=1e-6).sqrt()).amax(dim=(1, 2))
