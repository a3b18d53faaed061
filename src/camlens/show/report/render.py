"""From an error analysis to the JSON of the page."""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import Tensor

from camlens.analyse.error_analysis import ErrorAnalysis, Projection
from camlens.analyse.explanations import ExplainedPredictions
from camlens.analyse.training_images import RankedImages
from camlens.analyse.verdicts import Verdicts, reliability
from camlens.data.dataset import Dataset
from camlens.show.report.packing import PER_SHEET, encode, pack_maps, pack_pictures, round_values
from camlens.show.report.schema import (
    IdentityFacts,
    ModelFacts,
    Pictures,
    Plane,
    PredictionFacts,
    ReportFacts,
    TrainingImages,
    VerdictFacts,
)

MAX_SIDE = 160  # pixels of a picture
THUMBNAIL_SIDE = 48  # pixels of a training image


def render_facts(analysis: ErrorAnalysis) -> ReportFacts:
    """What the page shows of an analysis."""
    data, indices, training = analysis.test, analysis.indices, analysis.training
    evidence = verdicts = None
    if training is not None and analysis.train is not None:
        kinds = {
            "nearest": training.neighbours,
            "towards": training.influence.towards,
            "away": training.influence.away,
        }
        evidence = render_training_images(kinds, analysis.train)
        verdicts = render_verdicts(training.verdicts)
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
        "pictures": render_pictures(data, indices, MAX_SIDE),
        "side": list(data.size),
        "evidence": evidence,
        "verdicts": verdicts,
        "plane": None if analysis.projection is None else render_plane(analysis.projection, data.labels),
        "findings": analysis.findings,
    }


def render_identity(test: str, train: str | None) -> IdentityFacts:
    """What a page is of."""
    return {
        "id": test[:16],
        "learned": None if train is None else train[:16],
        "camlens": version("camlens"),
    }


def render_model(explained: ExplainedPredictions) -> ModelFacts:
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
        "errors": metrics["errors"],
        "reliability": metrics["reliability"],
        "right": evaluation.confusion.diag().tolist(),
        "perClass": [[k, *of_class.values()] for k, of_class in enumerate(metrics["per_class"].values())],
        **render_predictions(explained),
    }


def render_predictions(explained: ExplainedPredictions) -> PredictionFacts:
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


def render_training_images(kinds: dict[str, RankedImages], train: Dataset) -> TrainingImages:
    """Lists of training images by kind, and each of these images once as a small picture."""
    used = torch.cat([ranked.indices.flatten() for ranked in kinds.values()]).unique()
    used = used[used >= 0]
    place = {index: number for number, index in enumerate(used.tolist())} | {-1: -1}
    return {
        "index": used.tolist(),
        "file": [train.files[index] for index in used.tolist()],
        "label": train.labels[used].tolist(),
        "pictures": render_pictures(train, used, THUMBNAIL_SIDE, lossless_side=0),
        "lists": {
            kind: [[place[index] for index in row] for row in ranked.indices.tolist()] for kind, ranked in kinds.items()
        },
        "scores": {kind: round_values(ranked.scores, 3) for kind, ranked in kinds.items()},
    }


def render_pictures(data: Dataset, indices: Tensor, max_side: int, lossless_side: int = 64) -> Pictures:
    """The images of these indices, (n,), on sheets."""
    return pack_pictures(data.batches(PER_SHEET, indices), len(indices), data.size, max_side, lossless_side)


def render_verdicts(verdicts: Verdicts) -> VerdictFacts:
    """The verdict on each error with its reason, the doubt in its label, and how often such verdicts were right."""
    return {
        "of": verdicts.names,
        "why": verdicts.reasons,
        "doubt": round_values(verdicts.doubt, 4),
        "reliability": reliability(),
    }


def render_plane(projection: Projection, labels: Tensor) -> Plane:
    """All images in a plane, their places as integers from 0 to 65535."""
    low, high = projection.points.amin(dim=0), projection.points.amax(dim=0)
    places = ((projection.points - low) / (high - low).clamp(min=1e-12) * 65535).round()
    return {
        "points": encode(places.numpy().astype("<u2").tobytes()),
        "label": encode(labels.numpy().astype("<u2").tobytes()),
        "share": projection.explained_variance,
    }
