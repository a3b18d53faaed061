"""Whether an error depends on the place that its map names: the place is covered, and the network asked again."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.edits import COVERS, GRID, blur, cell_slices, to_levels
from camlens.analyse.explanations import ExplainedPredictions
from camlens.analyse.statistics import bootstrap_interval
from camlens.analyse.trials import BATCH, Trials, network_images
from camlens.progress import track
from camlens.runtime.predict import predict

BLUR = 1 / (2 * GRID)  # of the shorter side: standard deviation of the Gaussian in a blurred cell
NOISE = 0.01 * 255  # levels: standard deviation of the noise in an imputed cell
TOLERANCE, MAX_STEPS = 1e-3, 1000  # of the imputation: levels, and steps of conjugate gradients

Fill = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Places:
    """What becomes of T errors, those of `Trials`, when a cell of the grid is covered.

    Attributes:
        cells: The cell that the contrast of prediction and label names first, (T,) int64, row by row.
        falls: How far the margin of the prediction over the label falls when each cell is filled with the picture's
            mean, in logits, (T, 16).
        ranks: The place of the first cell among all by that fall, (T,) int64, 1 for the deepest.
        corrected: For each fill, whether the error becomes its label when the first cell is covered, (T,) bool.
        covers: How many of the 16 cells do so, filled with the mean, (T,) int64.
        first: Fraction of the errors that the first cell corrects, filled with the mean.
        mean: Fraction of all cells that do: what a cell at random corrects.
        difference: `first` less `mean`.
        interval: Its 95 % interval, by the bootstrap over the pictures.
    """

    cells: Tensor
    falls: Tensor
    ranks: Tensor
    corrected: dict[str, Tensor]
    covers: Tensor
    first: float
    mean: float
    difference: float
    interval: tuple[float, float]

    @property
    def depends(self) -> Tensor:
        """Where all fills agree that the first cell decides, and most other cells do not: (T,) bool."""
        return torch.stack([*self.corrected.values()]).all(dim=0) & (self.covers <= GRID * GRID // 2)


def cover_evidence(explained: ExplainedPredictions, trials: Trials) -> Places:
    """Cover the cell of each tried error that its contrast names first.

    Args:
        explained: The network's predictions, the errors first; the maps at the last layer are used.
        trials: Of the ladder, whose covers are used.
    """
    evaluation, errors = explained.evaluation, explained.indices[trials.tried]
    labels, predictions = evaluation.labels[errors], evaluation.predictions[errors]
    classes, maps = explained.classes[trials.tried], list(explained.maps.values())[-1][trials.tried]
    of_prediction, of_label = (maps[classes == chosen[:, None]] for chosen in (predictions, labels))
    cells = on_grid(of_prediction - of_label).flatten(1).argmax(dim=1)

    columns = [trials.names.index(name) for name in COVERS]
    logits = evaluation.logits[errors]
    margin = logits.gather(1, predictions[:, None]) - logits.gather(1, labels[:, None])
    falls, corrected = margin - trials.margins[:, columns], trials.corrected[:, columns]
    first = corrected.gather(1, cells[:, None])[:, 0]
    differences = first.double() - corrected.double().mean(dim=1)
    return Places(
        cells=cells,
        falls=falls,
        ranks=1 + (falls > falls.gather(1, cells[:, None])).sum(dim=1),
        corrected={"mean": first, **{name: covered(explained, errors, cells, name) == labels for name in FILLS}},
        covers=corrected.sum(dim=1),
        first=float(first.double().mean()),
        mean=float(corrected.double().mean()),
        difference=float(differences.mean()),
        interval=bootstrap_interval(differences),
    )


def covered(explained: ExplainedPredictions, errors: Tensor, cells: Tensor, fill: str) -> Tensor:
    """What the network predicts for errors (T,) whose cell (T,) is filled: (T,)."""
    model, data = explained.evaluation.model, explained.evaluation.data
    predictions = torch.empty_like(errors)
    order = cells.argsort(stable=True)
    for rows in track(order.split(BATCH), f"covering the places that the maps name ({fill})"):
        images = network_images(model, data.images(errors[rows])).clone()
        for cell in cells[rows].unique().tolist():
            same = cells[rows] == cell
            images[same] = FILLS[fill](images[same], *divmod(cell, GRID))
        predictions[rows] = predict(model, images).logits.argmax(dim=1)
    return predictions


def on_grid(maps: Tensor) -> Tensor:
    """Maps (T, h, w) on the grid: the mean of the map over each cell, (T, 4, 4)."""
    fine = maps.repeat_interleave(GRID, dim=1).repeat_interleave(GRID, dim=2)
    return F.avg_pool2d(fine[:, None], maps.shape[1:])[:, 0]


def fill_blurred(images: Tensor, row: int, column: int) -> Tensor:
    """Fill a cell of the grid with what is left of it when the picture is blurred strongly."""
    filled, (rows, columns) = images.clone(), cell_slices(row, column, *images.shape[2:])
    filled[:, :, rows, columns] = blur(images, BLUR)[:, :, rows, columns]
    return filled


def impute(images: Tensor, row: int, column: int) -> Tensor:
    """Fill a cell of the grid from the pixels around it, with a little noise: noisy linear imputation.

    Each pixel of the cell becomes the weighted mean of its neighbours, 1/6 for those beside it and 1/12 for those at
    its corners: Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ROAD),
    arXiv 2202.00449, section 5. The linear equations are solved by conjugate gradients.
    """
    count, channels, height, width = images.shape
    rows, columns = cell_slices(row, column, height, width)
    top, left = max(0, rows.start - 1), max(0, columns.start - 1)
    around = slice(top, rows.stop + 1), slice(left, columns.stop + 1)  # the cell and a rim of a pixel
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    weights = torch.tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])[None, None]

    def sum_neighbours(planes: Tensor) -> Tensor:
        return F.conv2d(planes, weights.to(planes), padding=1)

    known = images[:, :, around[0], around[1]].double().flatten(0, 1)[:, None]
    missing = torch.zeros_like(known[:1])
    missing[:, :, inside[0], inside[1]] = 1
    total = sum_neighbours(torch.ones(1, 1, height, width).to(known))[:, :, around[0], around[1]] * missing

    def product(planes: Tensor) -> Tensor:
        return total * planes - sum_neighbours(planes) * missing

    residual = sum_neighbours(known * (1 - missing)) * missing
    solution, direction = torch.zeros_like(known), residual
    for _ in range(MAX_STEPS):
        length = residual.square().sum(dim=(2, 3), keepdim=True)
        if float(residual.abs().max()) < TOLERANCE:
            break
        along = product(direction)
        step = length / (direction * along).sum(dim=(2, 3), keepdim=True).clamp(min=1e-300)
        solution, residual = solution + step * direction, residual - step * along
        direction = residual + residual.square().sum(dim=(2, 3), keepdim=True) / length.clamp(min=1e-300) * direction
    cell = solution[:, 0, inside[0], inside[1]].unflatten(0, (count, channels))
    noise = torch.randn(cell.shape[1:], generator=torch.Generator().manual_seed(0)) * NOISE
    filled = images.clone()
    filled[:, :, rows, columns] = to_levels(cell + noise.to(cell))
    return filled


FILLS: dict[str, Fill] = {"blur": fill_blurred, "noisy imputation": impute}  # besides the mean, which the ladder has
