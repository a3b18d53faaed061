"""`report.json`: the content of the report for programs. docs/report.md describes it."""

from importlib.metadata import version
from typing import Any, TypedDict

from camlens.analyse.edits import GRID
from camlens.analyse.error_analysis import ErrorAnalysis
from camlens.analyse.experiments.covered_cells import CoveredCells
from camlens.analyse.experiments.trials import EditRate
from camlens.analyse.groups.search import Group
from camlens.analyse.shortcuts.interventions import Effect
from camlens.analyse.shortcuts.search import Shortcut
from camlens.data.dataset import Dataset
from camlens.show.parquet import correcting_edits

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


class GroupRow(TypedDict):
    """Images with more errors than others."""

    sentence: str
    label: str | None  # of all its images; null for any
    conditions: list[str]
    images: int
    errors: int
    rate: float  # error rate, by cross-fitting
    interval: list[float]  # 95 %
    elsewhere: float  # error rate of the other images of the class, or of all
    indices: list[int]  # of its images in the data


class EffectRow(TypedDict):
    """The effect of an intervention, and of its control."""

    value: float
    control: float
    interval: list[float]  # of the difference, 95 %
    images: int


class ShortcutRow(TypedDict):
    """A patch by which the network recognises a class."""

    sentence: str
    label: str
    alarm: bool  # whether all three interventions have an effect; else two of them
    pasted: EffectRow
    covered: EffectRow
    missing: EffectRow | None
    split: str  # of the files
    files: list[str]  # images that have it
    places: list[list[int]]  # in each: top, left, height, width in pixels of the network's input


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
    data, groups, shortcuts = evaluation.data, analysis.groups, analysis.shortcuts
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
        "edits": [edit_row(rate) for rate in experiments.trials.rates] if experiments else [],
        "places": attributes(experiments.covered_cells, PlacesRow) if experiments else None,
        "averaging": attributes(experiments.averaging, AveragingRow) if experiments else None,
        "groups": [group_row(group) for group in groups.found] if groups else [],
        "shortcuts": [shortcut_row(shortcut, analysis.searched) for shortcut in shortcuts.found] if shortcuts else [],
    }


def error_rows(analysis: ErrorAnalysis) -> list[ErrorRow]:
    """The errors of the first model."""
    evaluation, experiments, words = analysis.evaluation, analysis.experiments, analysis.words
    data, names, training = evaluation.data, evaluation.data.class_names, analysis.training
    predictions, confidences = evaluation.predictions, evaluation.confidences
    corrected_by, places = correcting_edits(analysis), dict[int, PlaceRow]()
    if experiments:
        tried = experiments.trials.tried.tolist()
        places = {error: place_row(experiments.covered_cells, row) for row, error in enumerate(tried)}
    rows: list[ErrorRow] = []
    for k, (error_words, sentence) in enumerate(zip(words.tags, words.sentences, strict=True)):
        index = int(analysis.indices[k])
        duplicate = -1 if training is None else int(training.duplicates[k])
        rows.append(
            {
                "index": index,
                "file": data.files[index],
                "label": names[data.labels[index]],
                "prediction": names[predictions[index]],
                "probability": round(float(confidences[index]), 4),
                "words": error_words,
                "sentence": sentence,
                "tried": k in corrected_by,
                "corrected_by": corrected_by.get(k, []),
                "place": places.get(k),
                "duplicate": None if duplicate < 0 or analysis.train is None else analysis.train.files[duplicate],
                "doubt": None if analysis.doubt is None else round(float(analysis.doubt[index]), 4),
            }
        )
    return rows


def place_row(covered_cells: CoveredCells, row: int) -> PlaceRow:
    """The effect of covering the cell with the most evidence of an error."""
    cell = int(covered_cells.cells[row])
    return {
        "row": cell // GRID,
        "column": cell % GRID,
        "fall": round(float(covered_cells.decreases[row, cell]), 4),
        "rank": int(covered_cells.ranks[row]),
        "corrected_by": [fill for fill, corrects in covered_cells.corrected.items() if corrects[row]],
    }


def edit_row(rate: EditRate) -> EditRow:
    """The rates of an edit."""
    return {
        "name": rate.name,
        "errors": rate.errors,
        "matched": rate.matched,
        "difference": rate.difference,
        "interval": list(rate.interval),
        "p_value": rate.p_value,
        "reason": rate.is_reason,
    }


def attributes(source: object, kind: type) -> Any:
    """The attributes of an object that have the names of a `TypedDict`'s keys."""
    return {name: getattr(source, name) for name in kind.__annotations__}


def group_row(group: Group) -> GroupRow:
    """A group."""
    return {
        "sentence": group.sentence,
        "label": group.class_name,
        "conditions": [condition.meaning for condition in group.conditions],
        "images": len(group.indices),
        "errors": group.errors,
        "rate": round(group.rate, 4),
        "interval": [round(end, 4) for end in group.interval],
        "elsewhere": round(group.elsewhere, 4),
        "indices": group.indices.tolist(),
    }


def shortcut_row(shortcut: Shortcut, data: Dataset) -> ShortcutRow:
    """A shortcut, with the images of `data` that have it."""
    patch = shortcut.patch
    return {
        "sentence": shortcut.sentence,
        "label": shortcut.class_name,
        "alarm": shortcut.is_alarm,
        "pasted": effect_row(shortcut.pasted),
        "covered": effect_row(shortcut.covered),
        "missing": None if shortcut.missing is None else effect_row(shortcut.missing),
        "split": data.split,
        "files": [data.files[index] for index in patch.sources.tolist()],
        "places": [corner + list(patch.mask.shape) for corner in patch.corners.tolist()],
    }


def effect_row(effect: Effect) -> EffectRow:
    """An effect."""
    return {
        "value": round(effect.value, 4),
        "control": round(effect.control, 4),
        "interval": [round(end, 4) for end in effect.interval],
        "images": effect.images,
    }
