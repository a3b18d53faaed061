"""From data, evaluations and explanations to files in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.data.dataset import Dataset
from camlens.errors import UsageError
from camlens.files import replacing, write_json
from camlens.maps.explain import available_methods, explain
from camlens.maps.methods import METHODS, find_method
from camlens.model.classifier import Classifier
from camlens.progress import Work, track
from camlens.show import figures
from camlens.show.figures import Case, ExplainedPicture
from camlens.show.figures.sheet import Sheet

CONTRAST_METHOD = "hirescam"  # signed, and behind the last layer of a pooled linear head it adds up to the margin


def overview(sets: Sequence[Dataset], seed: int, folder: Path, shown: int = 10, most_classes: int = 100) -> Path:
    """Draw overview.png: each class of the first split with its counts and `shown` images picked by `seed`."""
    first = sets[0]
    names = first.class_names[:most_classes]
    numbers = torch.Generator().manual_seed(seed)
    rows = []
    for label in range(len(names)):
        of_class = (first.labels == label).nonzero()[:, 0]
        rows.append(first.images(of_class[torch.randperm(len(of_class), generator=numbers)[:shown]]))
    counts = [" + ".join(f"{s.counts()[k]:,} {s.split}" for s in sets) for k in range(len(names))]
    facts = [f"{sum(map(len, sets)):,} images, {first.original_size}, {len(first.class_names)} classes"]
    if len(first.class_names) > most_classes:
        facts.append(f"the first {most_classes} are shown")
    sheet = figures.overview(first.name, ", ".join(facts), names, counts, rows)
    return sheet.save(folder / "overview.png")


def evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write metrics.json, predictions.npz, confusion.png and calibration.png."""
    metrics = evaluation.metrics()
    title = f"{evaluation.model.name} on {evaluation.data.name}, {evaluation.data.split}"
    write_json(folder / "metrics.json", metrics)
    evaluation.save_predictions(folder / "predictions.npz")
    error = f"expected calibration error {100 * metrics['ece']:.1f} %, {metrics['n']:,} images"
    return [
        folder / "metrics.json",
        folder / "predictions.npz",
        figures.confusion(title, evaluation.confusion.numpy(), evaluation.data.class_names).save(
            folder / "confusion.png"
        ),
        figures.calibration(title, error, metrics["reliability"]).save(folder / "calibration.png"),
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
    """Draw misclassified and gradcam of the images of these indices; with `raw`, write maps.npz too.

    layers: by default the last two of those worth looking at
    """
    looked_at = list(layers or evaluation.model.layers[-2:])
    shown = cases(evaluation, indices, looked_at, method)
    title = f"What {evaluation.model.name} gets wrong on {evaluation.data.name}"
    with Work("drawing the errors"):
        paths = [
            figures.misclassified(title, facts, shown).save(folder / f"misclassified.{ending}"),
            figures.gradcam(title, facts, shown, method, CONTRAST_METHOD).save(folder / f"gradcam.{ending}"),
        ]
    return [*paths, save_maps(folder / "maps.npz", shown)] if raw else paths


def picture(
    model: Classifier,
    image: Image.Image,
    title: str,
    layers: Sequence[str] | None = None,
    method: str = "grad-cam",
    target: str | None = None,
    against: str | None = None,
    top: int = 5,
) -> tuple[list[tuple[str, float]], Sheet]:
    """The `top` likeliest classes of one picture with their probabilities, and the sheet that explains one of them.

    method: one of `METHODS`, or "all" for all that look at layers
    """
    looked_at = list(layers or model.layers[-2:])
    chosen = available_methods(model, looked_at) if method == "all" else [find_method(method).name]
    if METHODS[chosen[0]].level == "pixels":
        results = [explain(model, image, chosen[0], list(layers) if layers else None, target, against)]
    else:
        told = [against if METHODS[name].explains_class or method != "all" else None for name in chosen]
        results = [explain(model, image, name, looked_at, target, b) for name, b in zip(chosen, told, strict=True)]
    result = results[0]
    shares = result.logits[0].softmax(dim=0)
    best = shares.argsort(descending=True, stable=True)[:top].tolist()
    likeliest = [(model.class_names[k], float(shares[k])) for k in best]
    shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    maps = {one.method: {layer: m[0].cpu() for layer, m in one.by_layer().items()} for one in results}
    explained = model.class_names[int(result.target[0])]
    minus = None if result.against is None else model.class_names[int(result.against[0])]
    if minus == explained:
        raise UsageError(f"{title}: why {explained} and not {minus}? Give another class to explain it against")
    subject = ExplainedPicture(title, shown, likeliest, explained, minus)
    if method == "all":
        return likeliest, figures.methods(subject, maps)
    return likeliest, figures.explained(subject, maps[result.method], result.method)


def cases(evaluation: Evaluation, indices: Tensor, layers: Sequence[str], method: str, batch: int = 12) -> list[Case]:
    """The images of these indices with the maps for the prediction, for the label, and of their contrast."""
    parts = track(indices.split(batch), "explaining the errors")
    return [case for part in parts for case in _explained(evaluation, part, layers, method)]


def _explained(evaluation: Evaluation, indices: Tensor, layers: Sequence[str], method: str) -> list[Case]:
    model, data = evaluation.model, evaluation.data
    pixels = data.images(indices)
    images = model.prepare(pixels)
    labels, predictions = evaluation.labels[indices], evaluation.predictions[indices]
    shares = evaluation.probabilities[indices]
    found = [
        explain(model, images, method, layer=layers, target=predictions).maps,
        explain(model, images, method, layer=layers, target=labels).maps,
        explain(model, images, CONTRAST_METHOD, layer=layers, target=predictions, against=labels).maps,
    ]
    made = []
    for row, index in enumerate(indices.tolist()):
        label, prediction = int(labels[row]), int(predictions[row])
        of_prediction, of_label, contrast = ({k: m[row].cpu() for k, m in maps.items()} for maps in found)  # type: ignore[union-attr]
        made.append(
            Case(
                picture=pixels[row],
                index=index,
                file=data.files[index],
                label=data.class_names[label],
                prediction=data.class_names[prediction],
                label_probability=float(shares[row, label]),
                prediction_probability=float(shares[row, prediction]),
                maps={layer: (of_prediction[layer], of_label[layer], contrast[layer]) for layer in layers},
            )
        )
    return made


def save_maps(path: Path, cases: Sequence[Case]) -> Path:
    """Write the raw maps as .npz: `<layer>/prediction`, `/label`, `/contrast`, each (N, h, w), and whose they are."""
    arrays = {
        "index": np.array([case.index for case in cases]),
        "files": np.array([case.file for case in cases]),
        "label": np.array([case.label for case in cases]),
        "prediction": np.array([case.prediction for case in cases]),
    }
    for layer in cases[0].maps:
        for place, kind in enumerate(("prediction", "label", "contrast")):
            arrays[f"{layer}/{kind}"] = torch.stack([case.maps[layer][place] for case in cases]).numpy()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return path
