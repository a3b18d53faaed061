"""From an error analysis to the JSON of the page, as `schema` describes it."""

import base64
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from camlens.analyse.error_analysis import ErrorAnalysis
from camlens.analyse.explanations import ExplainedPredictions
from camlens.analyse.training_images import RankedImages
from camlens.analyse.verdicts import reliability
from camlens.data.dataset import Dataset
from camlens.data.geometry import WHOLE, Size, Window
from camlens.data.pictures import quiet_pillow, resize, three_channels
from camlens.show.report import schema

MAX_SIDE = 160  # pixels of a picture
THUMBNAIL_SIDE = 48  # pixels of a training image
LOSSLESS_SIDE = 64  # pixels, up to which pictures are packed without loss
PER_SHEET = 256  # pictures on a sheet
COLUMNS = 16  # of a sheet


def render_facts(analysis: ErrorAnalysis) -> schema.ReportFacts:
    """What the page shows of an analysis."""
    data, indices, training = analysis.test, analysis.indices, analysis.training
    evidence: schema.TrainingImages | None = None
    verdicts: schema.VerdictFacts | None = None
    if training is not None and analysis.train is not None:
        influence, found = training.influence, training.verdicts
        kinds = {"nearest": training.neighbours, "towards": influence.towards, "away": influence.away}
        evidence = render_training_images(kinds, analysis.train)
        doubt = round_values(found.doubt, 4)
        verdicts = {"of": found.names, "why": found.reasons, "doubt": doubt, "reliability": reliability()}
    return {
        **render_identity(*analysis.fingerprints),
        "data": {"name": data.name, "split": data.split, "n": len(data), "size": data.original_size},
        "names": list(data.class_names),
        "images": {
            "index": indices.tolist(),
            "file": [data.files[index] for index in indices.tolist()],
            "label": data.labels[indices].tolist(),
        },
        "models": [render_model(explained) for explained in analysis.explanations],
        "pictures": pack_errors(analysis),
        "side": list(data.size),
        "evidence": evidence,
        "verdicts": verdicts,
        "plane": render_plane(analysis),
        "findings": analysis.findings,
    }


def render_identity(test: str, train: str | None) -> schema.IdentityFacts:
    """Which network and images a page is about, from the fingerprints of an analysis."""
    return {"id": test[:16], "learned": None if train is None else train[:16], "camlens": version("camlens")}


def render_model(explained: ExplainedPredictions) -> schema.ModelFacts:
    """A model's metrics and predictions."""
    evaluation = explained.evaluation
    model, metrics = evaluation.model, evaluation.metrics()
    return {
        "name": model.name,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "input": "×".join(map(str, model.input_size)),
        "accuracy": metrics["accuracy"],
        "interval": metrics["interval"],
        "ece": metrics["ece"],
        "calibration": evaluation.calibration_in_words(),
        "errors": metrics["errors"],
        "reliability": metrics["reliability"],
        "right": evaluation.confusion.diag().tolist(),
        "perClass": [[k, *of_class.values()] for k, of_class in enumerate(metrics["per_class"].values())],
        **render_predictions(explained),
    }


def render_predictions(explained: ExplainedPredictions) -> schema.PredictionFacts:
    """What a model predicts for the images, and the maps behind it."""
    last = list(explained.maps)[-1:]
    return {
        "prediction": explained.classes[:, 0].tolist(),
        "classes": explained.classes.tolist(),
        "probability": round_values(explained.probabilities, 4),
        "logit": round_values(explained.logits, 4),
        "rest": round_values(explained.remainder, 4),
        "exact": explained.is_exact,
        "loss": round_values(explained.losses, 3),
        "layers": [pack_maps(layer, maps, precise=layer in last) for layer, maps in explained.maps.items()],
    }


def render_training_images(kinds: dict[str, RankedImages], train: Dataset) -> schema.TrainingImages:
    """Lists of training images by kind, and each of these images once as a small picture."""
    used = torch.cat([ranked.indices.flatten() for ranked in kinds.values()]).unique()
    used = used[used >= 0]
    place = {index: number for number, index in enumerate(used.tolist())} | {-1: -1}
    lists = {kind: [[place[k] for k in row] for row in ranked.indices.tolist()] for kind, ranked in kinds.items()}
    return {
        "index": used.tolist(),
        "file": [train.files[index] for index in used.tolist()],
        "label": train.labels[used].tolist(),
        "pictures": pack_pictures(train.batches(PER_SHEET, used), len(used), train.size, THUMBNAIL_SIDE, 0),
        "lists": lists,
        "scores": {kind: round_values(ranked.scores, 3) for kind, ranked in kinds.items()},
    }


def render_plane(analysis: ErrorAnalysis) -> schema.Plane | None:
    """All images in a plane, their places as integers from 0 to 65535."""
    projection = analysis.projection
    if projection is None:
        return None
    low, high = projection.points.aminmax(dim=0)
    places = ((projection.points - low) / (high - low).clamp(min=1e-12) * 65535).round()
    return {
        "points": encode(places.numpy().astype("<u2").tobytes()),
        "label": encode(analysis.test.labels.numpy().astype("<u2").tobytes()),
        "share": projection.explained_variance,
    }


def pack_maps(layer: str, maps: Tensor, precise: bool) -> schema.Layer:
    """Pack raw maps as integers with a scale for each image.

    Args:
        layer: Its name.
        maps: (E, n, h, w).
        precise: Whether to use 16 bits instead of 8, for maps whose cells are added up.
    """
    scale = maps.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / (32767 if precise else 127)
    integers = (maps / scale[:, None, None, None]).round().numpy().astype("<i2" if precise else "i1")
    return {
        "name": layer,
        "grid": list(maps.shape[2:]),
        "bytes": 2 if precise else 1,
        "scale": [float(f"{value:.6g}") for value in scale.tolist()],
        "data": encode(integers.tobytes()),
    }


def pack_errors(analysis: ErrorAnalysis) -> schema.Pictures:
    """The images that a model gets wrong; as photos where one is shown them cropped or squeezed."""
    data, indices = analysis.test, analysis.indices
    geometries = [explained.evaluation.model.geometry for explained in analysis.explanations]
    with quiet_pillow(), ThreadPoolExecutor() as pool:  # reads the files of the photos
        found = list(pool.map(lambda index: data.displayed(index, geometries, MAX_SIDE), indices.tolist()))
    if all(windows is None for _, windows in found):
        return pack_pictures(data.batches(PER_SHEET, indices), len(indices), data.size, MAX_SIDE)
    return pack_photos([(picture, windows or [WHOLE] * len(geometries)) for picture, windows in found], MAX_SIDE)


def pack_photos(photos: Sequence[tuple[Tensor, list[Window]]], max_side: int) -> schema.Pictures:
    """Put pictures (3, h, w) uint8 of any proportions on sheets, each with what each model is shown of it."""
    frames, places = [], torch.zeros(len(photos), 3, max_side, max_side, dtype=torch.uint8)
    for place, (picture, _) in zip(places, photos, strict=True):
        factor = min(1.0, max_side / max(picture.shape[1:]))
        height, width = (max(1, round(side * factor)) for side in picture.shape[1:])
        place[:, :height, :width] = resize(picture[None], (height, width))[0]
        frames.append([height, width])
    packed = pack_pictures(places.split(PER_SHEET), len(photos), (max_side, max_side), max_side)
    windows = [[[round(edge, 5) for edge in window] for window in of_models] for _, of_models in photos]
    return {**packed, "frames": frames, "windows": windows}


def pack_pictures(
    batches: Iterable[Tensor], count: int, size: Size, max_side: int, lossless_side: int = LOSSLESS_SIDE
) -> schema.Pictures:
    """Put pictures side by side on sheets.

    Args:
        batches: Pictures (n, C, H, W) uint8, `PER_SHEET` in each batch but the last.
        count: Number of all pictures.
        size: Their height and width in pixels.
        max_side: Pixels; larger pictures are made smaller.
        lossless_side: Pixels, up to which pictures are packed without loss.
    """
    factor = min(1.0, max_side / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    columns = max(1, min(COLUMNS, count))
    lossless = max(height, width) <= lossless_side
    shown = (resize(three_channels(batch), (height, width)) for batch in batches if len(batch))
    sheets = [pack_sheet(batch, columns, lossless) for batch in shown]
    return {"count": count, "columns": columns, "per": PER_SHEET, "size": [height, width], "sheets": sheets}


def pack_sheet(pictures: Tensor, columns: int, lossless: bool) -> str:
    """Pictures (n, 3, h, w) uint8 side by side in rows of `columns`, the rest black, as a data URI."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    padded = F.pad(pictures, (0, 0, 0, 0, 0, 0, 0, rows * columns - count))
    grid = padded.reshape(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    sheet = Image.fromarray(grid.reshape(rows * height, columns * width, 3).numpy())
    file = io.BytesIO()
    quality = {"quality": 60, "method": 2} if lossless else {"quality": 72, "method": 4}
    sheet.save(file, "WEBP", lossless=lossless, **quality)
    return f"data:image/webp;base64,{encode(file.getvalue())}"


def encode(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def round_values(values: Tensor, digits: int) -> Any:
    """A tensor as nested lists, rounded to this number of decimal places."""
    return values.double().round(decimals=digits).tolist()
