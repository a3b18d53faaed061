"""Whether an error depends on the cell with the most evidence: the cell is covered, and the image predicted again."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.edits import COVERS, GRID, blur, cell_slices, to_levels
from camlens.analyse.experiments.trials import BATCH, Trials
from camlens.analyse.explanations import ExplainedPredictions
from camlens.analyse.statistics import bootstrap_interval
from camlens.progress import track
from camlens.runtime.predict import predict

BLUR = 1 / (2 * GRID)  # standard deviation of the Gaussian in a blurred cell, as a fraction of the shorter side
NOISE = 0.01 * 255  # standard deviation of the noise in an imputed cell, in levels of 0 to 255
TOLERANCE = 1e-3  # largest residual of the imputation, in levels
MAX_STEPS = 1000  # of conjugate gradients

Fill = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class CoveredCells:
    """The effect of covering cells of the grid on T errors, those of `Trials`.

    Attributes:
        cells: The first cell of each error: the one with the most evidence for the prediction against the label, (T,)
            int64, counted row by row.
        decreases: By how much filling a cell with the picture's mean decreases the logit margin (the prediction's logit
            minus the label's), (T, 16).
        ranks: The rank of the first cell among all by that decrease, (T,) int64, 1 for the largest.
        corrected: For each fill, whether covering the first cell corrects the error, (T,) bool.
        covers: Number of cells that correct the error if filled with the mean, (T,) int64.
        first: Fraction of the errors that covering the first cell corrects, filled with the mean.
        mean: The same for a random cell.
        difference: `first` minus `mean`.
        interval: Its 95 % interval, by the bootstrap over the pictures.
    """

    cells: Tensor
    decreases: Tensor
    ranks: Tensor
    corrected: dict[str, Tensor]
    covers: Tensor
    first: float
    mean: float
    difference: float
    interval: tuple[float, float]

    @property
    def depends(self) -> Tensor:
        """Whether all fills of the first cell correct the error, and at most half of all cells do, (T,) bool."""
        return torch.stack([*self.corrected.values()]).all(dim=0) & (self.covers <= GRID * GRID // 2)


def cover_evidence(explained: ExplainedPredictions, trials: Trials) -> CoveredCells:
    """Cover the cell with the most evidence of each tried error.

    Args:
        explained: The network's predictions, the errors first; the maps at the last layer are used.
        trials: The results of the edits, among which are the covers of all cells.
    """
    evaluation, errors = explained.evaluation, explained.indices[trials.tried]
    labels, predictions = evaluation.labels[errors], evaluation.predictions[errors]
    classes, maps = explained.classes[trials.tried], list(explained.maps.values())[-1][trials.tried]
    of_prediction, of_label = (maps[classes == chosen[:, None]] for chosen in (predictions, labels))
    cells = on_grid(of_prediction - of_label).flatten(1).argmax(dim=1)

    columns = [trials.names.index(name) for name in COVERS]
    logits = evaluation.logits[errors]
    logit_margins = logits.gather(1, predictions[:, None]) - logits.gather(1, labels[:, None])
    decreases, corrected = logit_margins - trials.logit_margins[:, columns], trials.corrected[:, columns]
    first = corrected.gather(1, cells[:, None])[:, 0]
    differences = first.double() - corrected.double().mean(dim=1)
    return CoveredCells(
        cells=cells,
        decreases=decreases,
        ranks=1 + (decreases > decreases.gather(1, cells[:, None])).sum(dim=1),
        corrected={"mean": first, **{fill: predict_filled(explained, errors, cells, fill) == labels for fill in FILLS}},
        covers=corrected.sum(dim=1),
        first=float(first.double().mean()),
        mean=float(corrected.double().mean()),
        difference=float(differences.mean()),
        interval=bootstrap_interval(differences),
    )


def predict_filled(explained: ExplainedPredictions, errors: Tensor, cells: Tensor, fill: str) -> Tensor:
    """Predictions for errors (T,) in each of which a cell (T,) is filled: (T,)."""
    evaluation, predictions = explained.evaluation, torch.empty_like(errors)
    order = cells.argsort(stable=True)
    for rows in track(order.split(BATCH), f"covering the cells with the most evidence ({fill})"):
        images = evaluation.input_images(errors[rows]).clone()
        for cell in cells[rows].unique().tolist():
            has_cell = cells[rows] == cell
            images[has_cell] = FILLS[fill](images[has_cell], *divmod(cell, GRID))
        predictions[rows] = predict(evaluation.model, images).logits.argmax(dim=1)
    return predictions


def on_grid(maps: Tensor) -> Tensor:
    """Maps (T, h, w) on the grid: the mean of the map over each cell, (T, 4, 4)."""
    fine = maps.repeat_interleave(GRID, dim=1).repeat_interleave(GRID, dim=2)
    return F.avg_pool2d(fine[:, None], maps.shape[1:])[:, 0]


def fill_blurred(images: Tensor, row: int, column: int) -> Tensor:
    """Fill a cell of the grid with the same cell of a strongly blurred copy."""
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
    window = slice(top, rows.stop + 1), slice(left, columns.stop + 1)  # the cell and one pixel around it
    inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    weights = torch.tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])[None, None]

    def sum_neighbours(planes: Tensor) -> Tensor:
        return F.conv2d(planes, weights.to(planes), padding=1)

    pixels = images[:, :, window[0], window[1]].double().flatten(0, 1)[:, None]
    missing = torch.zeros_like(pixels[:1])
    missing[:, :, inside[0], inside[1]] = 1
    total = sum_neighbours(torch.ones(1, 1, height, width).to(pixels))[:, :, window[0], window[1]] * missing

    def product(planes: Tensor) -> Tensor:
        return total * planes - sum_neighbours(planes) * missing

    residual = sum_neighbours(pixels * (1 - missing)) * missing
    solution, direction = torch.zeros_like(pixels), residual
    for _ in range(MAX_STEPS):
        length = residual.square().sum(dim=(2, 3), keepdim=True)
        if float(residual.abs().max()) < TOLERANCE:
            break
        image = product(direction)
        step = length / (direction * image).sum(dim=(2, 3), keepdim=True).clamp(min=1e-300)
        solution, residual = solution + step * direction, residual - step * image
        direction = residual + residual.square().sum(dim=(2, 3), keepdim=True) / length.clamp(min=1e-300) * direction
    cell = solution[:, 0, inside[0], inside[1]].unflatten(0, (count, channels))
    noise = torch.randn(cell.shape[1:], generator=torch.Generator().manual_seed(0)) * NOISE
    filled = images.clone()
    filled[:, :, rows, columns] = to_levels(cell + noise.to(cell))
    return filled


FILLS: dict[str, Fill] = {"blur": fill_blurred, "noisy imputation": impute}  # beside the mean, as in the edits
