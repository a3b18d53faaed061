"""Near-duplicates: training images that are almost the same picture, by their pixels and by their features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.training_images import QUERIES, NeighbourSearch
from camlens.data.dataset import Dataset
from camlens.data.pictures import resize
from camlens.progress import Work, track

SIDE = 32  # pixels, the size at which images are compared
NEAREST_BY_FEATURES, NEAREST_BY_THUMBNAIL = 20, 10  # training images compared with each image
MAX_SHIFT = 3  # pixels by which a copy may be shifted
MIN_CORRECT = 20  # correctly predicted images needed to tell how similar images are by chance


def most_similar(
    data: Dataset,
    indices: Tensor,
    features: Tensor,
    train: Dataset,
    search: NeighbourSearch,
    excluded_labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the training image that is most similar to each image.

    Similarity is the mean of the cosine of the centred features and of (c - m) / (1 - m), where c is the correlation
    of the fine structure at the best shift and m its median over the training images compared: images of one kind
    have much in common without being the same.

    Args:
        data: The images.
        indices: (N,) which of them.
        features: (N, C) their features.
        train: The training images.
        search: Over the features of the training images.
        excluded_labels: (N,) label that the training image must not have, -1 for none.

    Returns:
        The similarity, (N,), and the index of the training image, (N,); -1 and -1 where all compared ones are excluded.
    """
    with Work("comparing with the training images"):
        train_thumbnails = torch.cat([thumbnails(images) for images in train.batches()])
        own_thumbnails = torch.cat([thumbnails(images) for images in data.batches(indices=indices)])
        count = min(NEAREST_BY_THUMBNAIL, len(train))
        alike = [(part @ train_thumbnails.T).topk(count, dim=1).indices for part in own_thumbnails.split(QUERIES)]
        near = search.nearest(features, NEAREST_BY_FEATURES).indices
        candidates = torch.cat([near, torch.cat(alike)], dim=1)  # (N, 30)
    structures = torch.cat([fine_structure(images) for images in data.batches(indices=indices)])
    similarities, found = torch.empty(len(indices)), torch.empty_like(indices)
    for k, compared in enumerate(track(candidates, "looking for near-duplicates")):
        compared = compared.unique()
        correlation = largest_correlation(structures[k], fine_structure(train.images(compared)))
        beyond = (correlation - correlation.median()) / (1 - correlation.median()).clamp(min=1e-6)
        similarity = (beyond + search.cosines(features[k : k + 1], compared)[0]) / 2
        if excluded_labels is not None:
            similarity[train.labels[compared] == excluded_labels[k]] = -1
        similarities[k], best = similarity.max(dim=0)
        found[k] = compared[best]
    return similarities, found.masked_fill(similarities == -1, -1)


def similarity_beyond_chance(similarities: Tensor) -> float:
    """The similarity that images do not reach by chance.

    It lies above the median by 2.5 times the distance of the tenth percentile from it. The upper half, where the
    duplicates are, is not used.

    Args:
        similarities: (N,), of some images with the training images most similar to them.
    """
    return float(similarities.median() + 2.5 * (similarities.median() - similarities.quantile(0.1)))


def find_duplicates(
    evaluation: Evaluation, errors: Tensor, correct: Tensor, train: Dataset, search: NeighbourSearch
) -> Tensor:
    """Find near-duplicates of errors among the training images with another label.

    Args:
        evaluation: Of the images, with features.
        errors: (E,) indices of errors.
        correct: (R,) indices of some correctly predicted images, which tell how similar images are by chance; with
            fewer than `MIN_CORRECT` of them nothing is called a duplicate.
        train: The training images.
        search: Over their features.

    Returns:
        Indices of the near-duplicates, (E,), -1 for none.
    """
    assert evaluation.features is not None
    both = torch.cat([errors, correct])
    excluded = torch.cat([evaluation.labels[errors], torch.full_like(correct, -1)])
    similarities, found = most_similar(evaluation.data, both, evaluation.features[both], train, search, excluded)
    of_errors, of_correct = similarities.split([len(errors), len(correct)])
    threshold = similarity_beyond_chance(of_correct) if len(correct) >= MIN_CORRECT else torch.inf
    return found[: len(errors)].masked_fill(of_errors < threshold, -1)


def thumbnails(pixels: Tensor) -> Tensor:
    """Grey images of 8x8 cells, less their mean and of length 1: (N, 3, H, W) uint8 -> (N, 64)."""
    grey = F.adaptive_avg_pool2d(pixels.float().mean(1, keepdim=True), 8).flatten(1)
    return F.normalize(grey - grey.mean(1, keepdim=True))


def fine_structure(pixels: Tensor, sigma: float = 3.0) -> Tensor:
    """Images (N, 3, H, W) uint8, resized to 32x32, less their blur by a Gaussian: (N, 3, 32, 32)."""
    reach = torch.arange(-9, 10).float()
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    row = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    images = resize(pixels, (SIDE, SIDE)).float()
    across = F.conv2d(F.pad(images, (9, 9, 9, 9), mode="replicate"), row, groups=3)
    return images - F.conv2d(across, row.transpose(2, 3), groups=3)


def largest_correlation(image: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation of an image's inside with each other image, at the shift where it is largest.

    Args:
        image: (3, H, W). Its inside is the image without `MAX_SHIFT` pixels at each edge, so all shifts up to that
            are tried.
        others: (n, 3, H, W).

    Returns:
        (n,), -1 to 1.
    """
    inside = image[:, MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT]
    pattern = F.normalize((inside - inside.mean()).flatten(), dim=0).view_as(inside)
    height, width = inside.shape[1:]
    moments = torch.stack([others.sum(dim=1), others.square().sum(dim=1)], dim=1)  # (n, 2, H, W)
    sums, squares = F.avg_pool2d(F.avg_pool2d(moments, (height, 1), 1), (1, width), 1).unbind(dim=1)
    energy = (squares - sums.square() / 3) * inside[0].numel()
    return (F.conv2d(others, pattern[None])[:, 0] / energy.clamp(min=1e-6).sqrt()).amax(dim=(1, 2))
