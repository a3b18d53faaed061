"""The experiments on the errors, groups of errors and shortcuts, as the page shows them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from camlens.analyse.edits import COVERS, GRID, apply
from camlens.analyse.error_analysis import ErrorAnalysis
from camlens.analyse.evaluation import input_images
from camlens.analyse.experiments.covered_cells import CoveredCells
from camlens.analyse.experiments.trials import EditRate, Trials
from camlens.analyse.shortcuts.interventions import MAX_EXAMPLES
from camlens.analyse.shortcuts.patches import cover_patch, paste
from camlens.analyse.shortcuts.search import Shortcut
from camlens.show.report import schema
from camlens.show.report.packing import PER_SHEET, pack_pictures, round_values

MAX_SHOWN = 4  # mildest edits of an error that are shown as pictures
MAX_SIDE = 64  # pixels of a picture


def render_experiments(analysis: ErrorAnalysis) -> schema.ExperimentFacts | None:
    """The experiments for the page; None if there were none."""
    if analysis.experiments is None:
        return None
    trials, covered_cells = analysis.experiments.trials, analysis.experiments.covered_cells
    listed = len(analysis.words.sentences)
    corrected_by: list[list[int]] = [[] for _ in range(listed)]
    probability: list[list[float]] = [[] for _ in range(listed)]
    shown: list[list[list[int]]] = [[] for _ in range(listed)]
    place_facts: list[schema.PlaceFacts | None] = [None] * listed
    pictures: list[tuple[int, int]] = []  # index of the image in the data set, and number of the edit
    covers = [trials.names.index(name) for name in COVERS]
    for row, error in enumerate(trials.tried.tolist()):
        index = int(analysis.indices[error])
        corrected_by[error] = trials.corrected[row].nonzero()[:, 0].tolist()
        probability[error] = round_values(trials.label_probability[row][corrected_by[error]], 6)
        place_facts[error] = render_place(covered_cells, row, len(pictures))
        cover = covers[int(covered_cells.cells[row])]
        pictures.append((index, cover))
        others = [(k, edit) for k, edit in enumerate(corrected_by[error]) if edit != cover][:MAX_SHOWN]
        shown[error] = [[k, len(pictures) + n] for n, (k, _) in enumerate(others)]
        pictures += [(index, edit) for _, edit in others]
    batches, size = edited_pictures(analysis, trials, pictures), analysis.evaluation.model.input_size
    return {
        "note": describe_trials(trials, int(analysis.evaluation.wrong.sum())),
        "rates": [render_rate(rate, rate.is_reason) for rate in trials.rates],
        "kinds": render_kinds(trials),
        "edits": corrected_by,
        "probability": probability,
        "shown": shown,
        "places": place_facts,
        "pictures": pack_pictures(batches, len(pictures), size, MAX_SIDE, 0),
    }


def render_place(covered_cells: CoveredCells, row: int, picture: int) -> schema.PlaceFacts:
    """The effect of covering the cell with the most evidence of an error."""
    cell = int(covered_cells.cells[row])
    return {
        "cell": list(divmod(cell, GRID)),
        "picture": picture,
        "fall": round(float(covered_cells.decreases[row, cell]), 2),
        "rank": int(covered_cells.ranks[row]),
        "fills": [fill for fill, corrects in covered_cells.corrected.items() if corrects[row]],
    }


def render_rate(rate: EditRate, is_reason: bool) -> schema.RateFacts:
    """The rates of an edit."""
    return {
        "name": rate.name,
        "errors": rate.errors,
        "matched": rate.matched,
        "difference": rate.difference,
        "interval": list(rate.interval),
        "reason": is_reason,
    }


def render_kinds(trials: Trials) -> list[schema.RateFacts]:
    """The rates of each kind of edits; a kind is a reason if one of its edits is."""
    reasons = {rate.name.split()[0].rstrip(",") for rate in trials.rates if rate.is_reason}
    kinds = trials.rates_by_kind()
    return [render_rate(rate, rate.name.split()[0].rstrip(",") in reasons) for rate in kinds]


def describe_trials(trials: Trials, errors: int) -> str:
    """On how many errors edits were tried, and how correct images were matched with them."""
    tried, pairs = len(trials.tried), int((trials.partners >= 0).sum())
    sampled = "" if tried == errors else f", sampled evenly from all {errors:,} in the order of label and prediction"
    return (
        f"Tried on {tried:,} errors{sampled}. {pairs:,} of them are matched with a correct image whose two largest "
        f"probabilities differ by about as much ({trials.gap:.3f} more or less on average). An edit corrects an error "
        "if the prediction becomes the label, and changes a correct image if the prediction becomes the runner-up."
    )


def edited_pictures(analysis: ErrorAnalysis, trials: Trials, pictures: list[tuple[int, int]]) -> Iterator[Tensor]:
    """The edited pictures, (n, C, H, W) uint8, `PER_SHEET` in each batch but the last."""
    edits = list(trials.edits.items())
    for start in range(0, len(pictures), PER_SHEET):
        batch = pictures[start : start + PER_SHEET]
        images = analysis.evaluation.input_images(torch.tensor([index for index, _ in batch]))
        numbers = torch.tensor([edit for _, edit in batch])
        for number in numbers.unique().tolist():
            has_edit = numbers == number
            name, edit = edits[number]
            images[has_edit] = apply(name, edit, images[has_edit])
        yield images


def render_groups_and_shortcuts(analysis: ErrorAnalysis) -> schema.CommonFacts | None:
    """Groups and shortcuts for the page; None if they were not searched for."""
    if analysis.groups is None or analysis.shortcuts is None:
        return None
    errors = analysis.indices[: len(analysis.words.tags)]
    shortcuts, pictures = list[schema.ShortcutFacts](), list[Tensor]()
    for shortcut in analysis.shortcuts.found:
        numbers = []
        for kind in show_shortcut(analysis, shortcut):
            numbers.append(list(range(len(pictures), len(pictures) + len(kind))))
            pictures += kind.byte()
        own, covered, turned = numbers
        shortcuts.append(
            {
                "sentence": shortcut.sentence,
                "label": analysis.test.class_names.index(shortcut.class_name),
                "own": own,
                "covered": covered,
                "turned": turned,
            }
        )
    batches = torch.stack(pictures).split(PER_SHEET) if pictures else ()
    return {
        "groups": [
            {
                "sentence": group.sentence,
                "meaning": " and ".join(condition.meaning for condition in group.conditions),
                "errors": torch.isin(errors, group.indices).nonzero()[:, 0].tolist(),
            }
            for group in analysis.groups.found
        ],
        "tried": analysis.groups.note,
        "shortcuts": shortcuts,
        "marks": analysis.shortcuts.note,
        "pictures": pack_pictures(batches, len(pictures), analysis.evaluation.model.input_size, MAX_SIDE, 0),
    }


def show_shortcut(analysis: ErrorAnalysis, shortcut: Shortcut) -> tuple[Tensor, Tensor, Tensor]:
    """Images of the class with the patch, the same with it covered, and others with it pasted in, (n, C, H, W)."""
    patch, (examples, corners) = shortcut.patch, shortcut.examples
    own = input_images(analysis.evaluation.model, analysis.searched, patch.sources[:MAX_EXAMPLES])
    others = analysis.evaluation.input_images(examples[:MAX_EXAMPLES]) if len(examples) else own[:0]
    covered = cover_patch(own, patch.mask, patch.corners[:MAX_EXAMPLES])
    return own, covered, paste(others, patch.pixels, patch.mask, corners[:MAX_EXAMPLES])
