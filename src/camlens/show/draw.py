"""Figures of data, evaluations and errors, as files in a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.explanations import METHOD as CONTRAST_METHOD
from camlens.analyse.explanations import PictureExplanation, explain_errors
from camlens.data.dataset import Dataset
from camlens.data.geometry import Geometry
from camlens.files import write_arrays, write_json
from camlens.model.temperature import describe
from camlens.progress import Work
from camlens.show.figures import charts, pictures
from camlens.show.figures.pictures import ErrorPicture, ExplainedPicture
from camlens.show.figures.sheet import Sheet
from camlens.show.parquet import write_table

PER_CLASS = 10  # images of each class in an overview
MAX_CLASSES = 100  # in an overview
MAX_SIDE = 512  # largest side in pixels of a picture in the gallery


def overview(sets: Sequence[Dataset], seed: int, folder: Path) -> Path:
    """Draw overview.png: each class of the first split, with its counts and some images.

    Args:
        sets: The splits.
        seed: Random seed for choosing the images.
        folder: Where to write it.
    """
    first = sets[0]
    names = first.class_names[:MAX_CLASSES]
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label in range(len(names)):
        of_class = (first.labels == label).nonzero()[:, 0]
        rows.append(first.images(of_class[torch.randperm(len(of_class), generator=generator)[:PER_CLASS]]))
    counts = [" + ".join(f"{s.counts()[k]:,} {s.split}" for s in sets) for k in range(len(names))]
    facts = f"{sum(map(len, sets)):,} images, {first.original_size}, {len(first.class_names)} classes"
    if len(first.class_names) > MAX_CLASSES:
        facts += f", the first {MAX_CLASSES} are shown"
    return pictures.overview(first.name, facts, names, counts, rows).save(folder / "overview.png")


def evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write metrics.json, predictions.npz, with pyarrow predictions.parquet, confusion.png and calibration.png."""
    data, metrics = evaluation.data, evaluation.metrics()
    title = f"{evaluation.model.name} on {data.name}, {data.split}"
    low, high = (f"{100 * end:.1f}" for end in metrics["ece_by_chance"]["interval"])
    error = f"calibration error {100 * metrics['ece']:.1f} % (if perfect {low} to {high} %)"
    facts = f"{describe(metrics['temperature'])}: {error}"
    write_json(folder / "metrics.json", metrics)
    evaluation.save_predictions(folder / "predictions.npz")
    return [
        folder / "metrics.json",
        folder / "predictions.npz",
        *write_table(evaluation, folder / "predictions.parquet"),
        charts.confusion(title, evaluation.confusion.numpy(), data.class_names).save(folder / "confusion.png"),
        charts.calibration(title, facts, metrics["reliability"]).save(folder / "calibration.png"),
    ]


def gallery(
    evaluation: Evaluation,
    indices: Tensor,
    facts: str,
    folder: Path,
    layers: Sequence[str] | None = None,
    method: str = "grad-cam",
    ending: str = "png",
    raw: bool = False,
) -> list[Path]:
    """Draw misclassified and gradcam.

    Args:
        evaluation: Of the data set.
        indices: The errors to draw, (E,).
        facts: Describes which errors these are.
        folder: Where to write the files.
        layers: By default the model's last two.
        method: Of the maps for prediction and label.
        ending: "png" or "pdf".
        raw: Whether to write the raw maps too, to maps.npz.
    """
    model, data = evaluation.model, evaluation.data
    maps = explain_errors(evaluation, indices, list(layers or model.find_layers()[-2:]), method)
    predictions, probabilities, errors = evaluation.predictions, evaluation.probabilities, []
    for index in indices.tolist():
        label, prediction = int(data.labels[index]), int(predictions[index])
        shown, windows = data.displayed(index, [model.geometry], MAX_SIDE)
        errors.append(
            ErrorPicture(
                picture=shown,
                file=data.files[index],
                label=data.class_names[label],
                prediction=data.class_names[prediction],
                label_probability=float(probabilities[index, label]),
                prediction_probability=float(probabilities[index, prediction]),
                window=windows[0] if windows else None,
            )
        )
    title = f"Errors of {model.name} on {data.name}"
    with Work("drawing the errors"):
        paths = [
            pictures.misclassified(title, facts, errors).save(folder / f"misclassified.{ending}"),
            pictures.gradcam(title, facts, errors, maps, method, CONTRAST_METHOD).save(folder / f"gradcam.{ending}"),
        ]
    return [*paths, save_maps(folder / "maps.npz", indices, errors, maps)] if raw else paths


def picture(title: str, image: Image.Image, explained: PictureExplanation, method: str, geometry: Geometry) -> Sheet:
    """Draw an explained picture.

    Args:
        title: Heading.
        image: The picture.
        explained: The prediction and the maps.
        method: The method that was asked for, or "all".
        geometry: How the picture was prepared for the classifier.
    """
    window = geometry.window((image.height, image.width))
    shown = geometry.apply(image) if window is None else image
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
    subject = ExplainedPicture(title, pixels, explained.probabilities, explained.target, explained.against, window)
    if method == "all":
        return pictures.methods(subject, explained.maps)
    ((name, maps),) = explained.maps.items()
    return pictures.explained(subject, maps, name)


def save_maps(path: Path, indices: Tensor, errors: Sequence[ErrorPicture], maps: dict[str, Tensor]) -> Path:
    """Write raw maps as .npz, `<layer>/prediction`, `/label` and `/contrast`, (N, h, w) each, and names."""
    arrays = {
        "index": indices.numpy(),
        "files": np.array([error.file for error in errors]),
        "label": np.array([error.label for error in errors]),
        "prediction": np.array([error.prediction for error in errors]),
    }
    for layer, of_layer in maps.items():
        for kind, of_kind in zip(("prediction", "label", "contrast"), of_layer.unbind(dim=1), strict=True):
            arrays[f"{layer}/{kind}"] = of_kind.numpy()
    write_arrays(path, arrays)
    return path
