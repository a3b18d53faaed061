"""`report.json`: the content of the report for programs. docs/report.md describes it."""

from importlib.metadata import version
from typing import TypedDict

from camlens.analyse.edits import GRID
from camlens.analyse.error_analysis import ErrorAnalysis, Experiments
from camlens.show.report.common import GroupRow, ShortcutRow, list_groups, list_shortcuts

VERSION = 1  # of the format: increased when a key is removed or changes its meaning


class PlaceRow(TypedDict):
    """The effect of covering the cell with the most evidence of an error."""

    row: int  # of the 4x4 grid, from 0
    column: int
    fall: float  # of the margin over the label, in logits, if filled with the mean
    rank: int  # of this fall among the 16 cells, 1 for the deepest
    corrected_by: list[str]  # fills that correct the error


class ErrorRow(TypedDict):
    """An error of the model."""

    index: int  # in the data
    file: str
    label: str
    prediction: str
    probability: float  # of the prediction
    words: list[str]
    sentence: str
    tried: bool  # whether edits were tried on it
    corrected_by: list[str]  # names of the edits that correct it, the mildest first
    place: PlaceRow | None
    duplicate: str | None  # file of a training image with another label that is almost the same picture
    doubt: float | None  # of the label, -1 to 1, by the model and a second opinion; null without one


class EditRow(TypedDict):
    """How often an edit corrects errors, and changes correct images with the same margin."""

    name: str
    errors: float
    matched: float
    difference: float
    interval: list[float]  # 95 %
    p_value: float  # adjusted for all edits
    reason: bool


class PlacesRow(TypedDict):
    """How often covering the cell with the most evidence corrects an error."""

    first: float
    mean: float  # of all 16 cells
    difference: float
    interval: list[float]  # 95 %


class AveragingRow(TypedDict):
    """The effect of averaging over copies on held-out images."""

    way: str
    averaged: int
    corrected: int
    broken: int
    net: int
    p_value: float


class Listing(TypedDict):
    """The whole file."""

    version: int
    camlens: str
    id: str  # fingerprint of the network and the images
    model: str
    data: str
    split: str
    images: int
    accuracy: float
    error_count: int
    errors: list[ErrorRow]  # by falling confidence; of more than 2,000, those of `ErrorAnalysis.indices`
    edits: list[EditRow]  # the mildest first; empty where none were tried
    places: PlacesRow | None
    averaging: AveragingRow | None
    groups: list[GroupRow]  # the most certain first
    shortcuts: list[ShortcutRow]  # alarms, then strong cues


def list_errors(analysis: ErrorAnalysis) -> Listing:
    """The content of report.json."""
    evaluation, experiments = analysis.evaluation, analysis.experiments
    data = evaluation.data
    return {
        "version": VERSION,
        "camlens": version("camlens"),
        "id": analysis.fingerprints[0],
        "model": evaluation.model.name,
        "data": data.name,
        "split": data.split,
        "images": len(data),
        "accuracy": evaluation.accuracy,
        "error_count": int(evaluation.wrong.sum()),
        "errors": error_rows(analysis),
        "edits": [] if experiments is None else edit_rows(experiments),
        "places": None if experiments is None else places_row(experiments),
        "averaging": None if experiments is None else averaging_row(experiments),
        "groups": list_groups(analysis),
        "shortcuts": list_shortcuts(analysis),
    }


def error_rows(analysis: ErrorAnalysis) -> list[ErrorRow]:
    """The errors of the first model."""
    evaluation, experiments, training = analysis.evaluation, analysis.experiments, analysis.training
    data, names, words = evaluation.data, evaluation.data.class_names, analysis.words
    row_of = {} if experiments is None else {k: row for row, k in enumerate(experiments.trials.tried.tolist())}
    rows: list[ErrorRow] = []
    for k, (error_words, sentence) in enumerate(zip(words.tags, words.sentences, strict=True)):
        index, row = int(analysis.indices[k]), row_of.get(k)
        duplicate = -1 if training is None else int(training.duplicates[k])
        tried = experiments is not None and row is not None
        rows.append(
            {
                "index": index,
                "file": data.files[index],
                "label": names[evaluation.labels[index]],
                "prediction": names[evaluation.predictions[index]],
                "probability": round(float(evaluation.confidences[index]), 4),
                "words": error_words,
                "sentence": sentence,
                "tried": tried,
                "corrected_by": corrected_by(experiments, row) if experiments and row is not None else [],
                "place": place_row(experiments, row) if experiments and row is not None else None,
                "duplicate": None if duplicate < 0 or analysis.train is None else analysis.train.files[duplicate],
                "doubt": None if analysis.doubt is None else round(float(analysis.doubt[index]), 4),
            }
        )
    return rows


def corrected_by(experiments: Experiments, row: int) -> list[str]:
    """The edits that correct an error."""
    trials = experiments.trials
    return [name for name, corrects in zip(trials.names, trials.corrected[row].tolist(), strict=True) if corrects]


def place_row(experiments: Experiments, row: int) -> PlaceRow:
    """The effect of covering the cell with the most evidence of an error."""
    covered_cells = experiments.covered_cells
    cell = int(covered_cells.cells[row])
    return {
        "row": cell // GRID,
        "column": cell % GRID,
        "fall": round(float(covered_cells.decreases[row, cell]), 4),
        "rank": int(covered_cells.ranks[row]),
        "corrected_by": [fill for fill, corrects in covered_cells.corrected.items() if corrects[row]],
    }


def edit_rows(experiments: Experiments) -> list[EditRow]:
    """The rates of each edit."""
    return [
        {
            "name": rate.name,
            "errors": rate.errors,
            "matched": rate.matched,
            "difference": rate.difference,
            "interval": list(rate.interval),
            "p_value": rate.p_value,
            "reason": rate.is_reason,
        }
        for rate in experiments.trials.rates
    ]


def places_row(experiments: Experiments) -> PlacesRow:
    """How often covering the cell with the most evidence corrects an error, and a random cell."""
    covered_cells = experiments.covered_cells
    return {
        "first": covered_cells.first,
        "mean": covered_cells.mean,
        "difference": covered_cells.difference,
        "interval": list(covered_cells.interval),
    }


def averaging_row(experiments: Experiments) -> AveragingRow:
    """The effect of averaging over copies."""
    averaging = experiments.averaging
    return {
        "way": averaging.way,
        "averaged": averaging.averaged,
        "corrected": averaging.corrected,
        "broken": averaging.broken,
        "net": averaging.net,
        "p_value": averaging.p_value,
    }
