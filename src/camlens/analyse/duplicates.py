"""Near-duplicates: training images that are almost the picture, by their pixels and by their features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.evidence import Reading
from camlens.data.dataset import Dataset
from camlens.data.pictures import resize
from camlens.progress import Work, track

SIDE = 32  # pixels, at which pictures are compared
NEAR = 20, 10  # training images compared: the nearest by features, by thumbnails
SHIFT = 3  # pixels, by which a copy may be moved
FEW = 20  # right images, with fewer of which it is not known how alike pictures are by chance


def most_alike(
    pixels: Tensor, features: Tensor, train: Dataset, learned: Tensor, other_than: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How alike each picture is to the most alike training image, (N,), and the index of that, (N,).

    pixels, features: (N, 3, H, W) uint8 and (N, C); learned: (M, C), the features of the training images
    other_than: (N,), labels that the training images must not have, -1 for any; where all compared ones do, -1 and -1

    Likeness is the mean of two figures: the cosine of the features, less their mean, and the correlation c of the
    pictures' fine structure, for the best shift, beyond its median m over all that are compared, (c - m) / (1 - m):
    pictures of a kind have much in common without being the same.
    """
    centre = learned.mean(dim=0)
    of, by = F.normalize(features - centre), F.normalize(learned - centre)
    with Work("comparing with the training images"):
        small = [thumbnails(pixels), torch.cat([thumbnails(images) for images in train.batches()])]
        cosines = [part @ by.T for part in of.split(256)]
        near = [torch.cat([c.topk(min(NEAR[0], len(by)), dim=1).indices for c in cosines])]
        near.append(
            torch.cat([(part @ small[1].T).topk(min(NEAR[1], len(by)), dim=1).indices for part in small[0].split(256)])
        )
    pictures, found = fine_structure(pixels), []
    for k, compared in enumerate(track(torch.cat(near, dim=1), "looking for near-duplicates")):
        compared = compared.unique()
        correlation = largest_correlation(pictures[k], fine_structure(train.images(compared)))
        beyond = (correlation - correlation.median()) / (1 - correlation.median()).clamp(min=1e-6)
        alike = (beyond + by[compared] @ of[k]) / 2
        if other_than is not None:
            alike[train.labels[compared] == other_than[k]] = -1
        best = int(alike.argmax())
        found.append((float(alike[best]), int(compared[best]) if alike[best] > -1 else -1))
    return torch.tensor([alike for alike, _ in found]), torch.tensor([index for _, index in found], dtype=torch.int64)


def beyond_chance(likeness: Tensor) -> float:
    """The likeness that pictures do not have by chance.

    It lies above the median by 2.5 times the distance of the tenth percentile from it. The upper half, where the
    duplicates are, is left aside.

    likeness: (N,), of some images with the training images most like them
    """
    return float(likeness.median() + 2.5 * (likeness.median() - likeness.quantile(0.1)))


def find_duplicates(
    evaluation: Evaluation, errors: Tensor, right: Tensor, reading: Reading, train: Dataset, learned: Reading
) -> tuple[Tensor, Tensor]:
    """Near-duplicates of errors, (E,), in the training set with another label: their indices, (E,), -1 for none.

    right: some rightly predicted images, which tell how alike pictures are by chance; with fewer than `FEW` of them
        none is called a duplicate. Also the likeness, (E,).
    """
    both = torch.cat([errors, right])
    other = torch.cat([evaluation.labels[errors], torch.full_like(right, -1)])
    pixels = torch.cat(list(evaluation.data.batches(indices=both)))
    likeness, index = most_alike(pixels, reading.features[both], train, learned.features, other)
    (alike, usual), index = likeness.split([len(errors), len(right)]), index[: len(errors)]
    enough = alike >= (beyond_chance(usual) if len(right) >= FEW else torch.inf)
    return index.masked_fill(~enough, -1), alike


def thumbnails(pixels: Tensor) -> Tensor:
    """Grey pictures of 8x8 cells, less their mean and of length 1: (N, 64)."""
    grey = torch.cat([F.adaptive_avg_pool2d(part.float().mean(1, keepdim=True), 8) for part in pixels.split(4096)])
    return F.normalize(grey.flatten(1) - grey.flatten(1).mean(1, keepdim=True))


def fine_structure(pixels: Tensor, sigma: float = 3.0) -> Tensor:
    """Pictures (N, 3, 32, 32) less their blur by a Gaussian."""
    reach = torch.arange(-9, 10).float()
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    row = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    parts = []
    for part in resize(pixels, (SIDE, SIDE)).split(4096):
        plain = part.float()
        across = F.conv2d(F.pad(plain, (9, 9, 9, 9), mode="replicate"), row, groups=3)
        parts.append(plain - F.conv2d(across, row.transpose(2, 3), groups=3))
    return torch.cat(parts)


def largest_correlation(picture: Tensor, others: Tensor) -> Tensor:
    """The correlation of a picture's inside with the others, where it is largest, (n,).

    picture: (3, H, W); others: (n, 3, H, W). The inside is the picture without `SHIFT` pixels at each edge, so it is
    looked for at all shifts up to that.
    """
    inside = picture[:, SHIFT:-SHIFT, SHIFT:-SHIFT]
    pattern = F.normalize((inside - inside.mean()).flatten(), dim=0).view_as(inside)
    high, wide = inside.shape[1:]
    both = torch.stack([others.sum(dim=1), others.square().sum(dim=1)], dim=1)
    sums, squares = F.avg_pool2d(F.avg_pool2d(both, (high, 1), 1), (1, wide), 1).unbind(dim=1)
    energy = (squares - sums.square() / 3) * inside[0].numel()
    return (F.conv2d(others, pattern[None])[:, 0] / energy.clamp(min=1e-6).sqrt()).amax(dim=(1, 2))
