"""Groups of errors and shortcuts, as the page and report.json show them."""

from typing import TypedDict

import torch
from torch import Tensor

from camlens.analyse.error_analysis import ErrorAnalysis
from camlens.analyse.evaluation import input_images
from camlens.analyse.groups.search import Group
from camlens.analyse.shortcuts.interventions import MAX_EXAMPLES, Effect
from camlens.analyse.shortcuts.patches import cover_patch, paste
from camlens.analyse.shortcuts.search import Shortcut
from camlens.show.report import schema
from camlens.show.report.packing import PER_SHEET, pack_pictures

MAX_SIDE = 64  # pixels of a picture


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


def list_groups(analysis: ErrorAnalysis) -> list[GroupRow]:
    """The groups of report.json."""
    return [list_group(group) for group in (analysis.groups.found if analysis.groups else [])]


def list_group(group: Group) -> GroupRow:
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


def list_shortcuts(analysis: ErrorAnalysis) -> list[ShortcutRow]:
    """The shortcuts of report.json, the alarms first."""
    rows: list[ShortcutRow] = []
    for shortcut in analysis.shortcuts.found if analysis.shortcuts else []:
        data, sides = analysis.searched, list(shortcut.patch.mask.shape)
        rows.append(
            {
                "sentence": shortcut.sentence,
                "label": shortcut.class_name,
                "alarm": shortcut.is_alarm,
                "pasted": list_effect(shortcut.pasted),
                "covered": list_effect(shortcut.covered),
                "missing": None if shortcut.missing is None else list_effect(shortcut.missing),
                "split": data.split,
                "files": [data.files[index] for index in shortcut.patch.sources.tolist()],
                "places": [corner + sides for corner in shortcut.patch.corners.tolist()],
            }
        )
    return rows


def list_effect(effect: Effect) -> EffectRow:
    """An effect."""
    return {
        "value": round(effect.value, 4),
        "control": round(effect.control, 4),
        "interval": [round(end, 4) for end in effect.interval],
        "images": effect.images,
    }


def render_common(analysis: ErrorAnalysis) -> schema.CommonFacts | None:
    """Groups and shortcuts for the page; None if they were not searched for."""
    if analysis.groups is None or analysis.shortcuts is None:
        return None
    errors = analysis.indices[: len(analysis.words.tags)]
    names, rows, images = analysis.test.class_names, [], torch.empty(0)
    for shortcut in analysis.shortcuts.found:
        kinds = [kind.float() for kind in show_shortcut(analysis, shortcut)]
        starts = [len(images) + sum(map(len, kinds[:number])) for number in range(len(kinds))]
        own, covered, turned = (
            list(range(start, start + len(kind))) for start, kind in zip(starts, kinds, strict=True)
        )
        images = torch.cat([images, *kinds]) if len(images) else torch.cat(kinds)
        rows.append(
            schema.ShortcutFacts(
                sentence=shortcut.sentence,
                alarm=shortcut.is_alarm,
                label=names.index(shortcut.class_name),
                own=own,
                covered=covered,
                turned=turned,
            )
        )
    size = analysis.evaluation.model.input_size
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
        "shortcuts": rows,
        "marks": analysis.shortcuts.note,
        "pictures": pack_pictures(images.byte().split(PER_SHEET), len(images), size, MAX_SIDE, 0),
    }


def show_shortcut(analysis: ErrorAnalysis, shortcut: Shortcut) -> tuple[Tensor, Tensor, Tensor]:
    """Images of the class with the patch, the same with it covered, and others with it pasted in, (n, C, H, W)."""
    patch, (examples, corners) = shortcut.patch, shortcut.examples
    own = input_images(analysis.evaluation.model, analysis.searched, patch.sources[:MAX_EXAMPLES])
    others = analysis.evaluation.input_images(examples[:MAX_EXAMPLES]) if len(examples) else own[:0]
    covered = cover_patch(own, patch.mask, patch.corners[:MAX_EXAMPLES])
    return own, covered, paste(others, patch.pixels, patch.mask, corners[:MAX_EXAMPLES])
