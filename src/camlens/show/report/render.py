"""From an error analysis to the JSON of the page, as `schema` describes it."""

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import torch
from torch import Tensor

from camlens.analyse.error_analysis import ErrorAnalysis
from camlens.analyse.explanations import ExplainedPredictions
from camlens.analyse.labels.judgements import draw_images
from camlens.analyse.training_images import RankedImages
from camlens.data.dataset import Dataset
from camlens.data.geometry import WHOLE
from camlens.data.pictures import quiet_pillow
from camlens.runtime.predict import fingerprint_weights
from camlens.show.html import encode
from camlens.show.report import schema
from camlens.show.report.experiments import render_experiments, render_groups_and_shortcuts
from camlens.show.report.packing import PER_SHEET, pack_maps, pack_photos, pack_pictures, round_values

MAX_SIDE = 160  # pixels of a picture
THUMBNAIL_SIDE = 64  # pixels of a training image, if there are more than `MAX_LARGE`
MAX_LARGE = 1000  # training images that are packed as large as the errors; more would make the page slow to load


def render_facts(analysis: ErrorAnalysis) -> schema.ReportFacts:
    """The JSON of the page for an analysis."""
    data, indices, training = analysis.test, analysis.indices, analysis.training
    evidence: schema.TrainingImages | None = None
    if training is not None and analysis.train is not None:
        influence, duplicate_indices = training.influence, training.duplicates[:, None]
        duplicates = RankedImages(duplicate_indices, torch.zeros_like(duplicate_indices, dtype=torch.float32))
        kinds = {"nearest": training.neighbours, "towards": influence.towards, "away": influence.away}
        evidence = render_training_images({**kinds, "duplicate": duplicates}, analysis.train, analysis.train_doubt)
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
        "pictures": pack_images(analysis, indices),
        "side": list(data.size),
        "evidence": evidence,
        "words": analysis.words.tags,
        "sentences": analysis.words.sentences,
        "doubt": None if analysis.doubt is None else round_values(analysis.doubt[indices], 4),
        "sample": render_sample(analysis),
        "experiments": render_experiments(analysis),
        "common": render_groups_and_shortcuts(analysis),
        "plane": render_plane(analysis),
        "findings": analysis.findings,
    }


def render_identity(test: str, train: str | None) -> schema.IdentityFacts:
    """The network and the images of a page, from the fingerprints of an analysis."""
    return {"id": test[:16], "learned": None if train is None else train[:16], "camlens": version("camlens")}


def render_model(explained: ExplainedPredictions) -> schema.ModelFacts:
    """A model's metrics and predictions."""
    evaluation = explained.evaluation
    model, metrics, wrong = evaluation.model, evaluation.metrics(), evaluation.confusion.fill_diagonal_(0)
    return {
        "name": model.name,
        "weights": fingerprint_weights(model)[:16],
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "input": "×".join(map(str, model.input_size)),
        "accuracy": metrics["accuracy"],
        "interval": metrics["interval"],
        "calibration": evaluation.calibration_in_words(),
        "errors": metrics["errors"],
        "reliability": metrics["reliability"],
        "right": evaluation.confusion.diag().tolist(),
        "wrong": [[*pair, int(wrong[tuple(pair)])] for pair in wrong.nonzero().tolist()],
        "perClass": [[k, *of_class.values()] for k, of_class in enumerate(metrics["per_class"].values())],
        **render_predictions(explained),
    }


def render_predictions(explained: ExplainedPredictions) -> schema.PredictionFacts:
    """A model's predictions for the images, and their maps."""
    last = list(explained.maps)[-1:]
    return {
        "prediction": explained.classes[:, 0].tolist(),
        "classes": explained.classes.tolist(),
        "probability": round_values(explained.probabilities, 6),
        "logit": round_values(explained.logits, 4),
        "rest": round_values(explained.remainder, 4),
        "exact": explained.is_exact,
        "loss": round_values(explained.losses, 3),
        "layers": [pack_maps(layer, maps, precise=layer in last) for layer, maps in explained.maps.items()],
    }


def render_training_images(
    kinds: dict[str, RankedImages], train: Dataset, doubt: Tensor | None = None
) -> schema.TrainingImages:
    """Lists of training images by kind, and each of these once, as a small picture with the doubt in its label."""
    indices = torch.cat([ranked.indices.flatten() for ranked in kinds.values()]).unique()
    indices = indices[indices >= 0]
    position = {index: number for number, index in enumerate(indices.tolist())} | {-1: -1}
    max_side = MAX_SIDE if len(indices) <= MAX_LARGE else THUMBNAIL_SIDE
    lists = {kind: [[position[k] for k in row] for row in ranked.indices.tolist()] for kind, ranked in kinds.items()}
    return {
        "index": indices.tolist(),
        "file": [train.files[index] for index in indices.tolist()],
        "label": train.labels[indices].tolist(),
        "doubt": None if doubt is None else round_values(doubt[indices], 4),
        "pictures": pack_pictures(train.batches(PER_SHEET, indices), len(indices), train.size, max_side, 0),
        "lists": lists,
        "scores": {kind: round_values(ranked.scores, 3) for kind, ranked in kinds.items()},
    }


def render_plane(analysis: ErrorAnalysis) -> schema.Plane | None:
    """All images in a plane, their coordinates as integers from 0 to 65535."""
    projection = analysis.projection
    if projection is None:
        return None
    low, high = projection.points.aminmax(dim=0)
    coordinates = ((projection.points - low) / (high - low).clamp(min=1e-12) * 65535).round()
    return {
        "points": encode(coordinates.numpy().astype("<u2").tobytes()),
        "label": encode(analysis.test.labels.numpy().astype("<u2").tobytes()),
        "share": projection.explained_variance,
    }


def render_sample(analysis: ErrorAnalysis) -> schema.SampleFacts:
    """Images drawn at random, with pictures of those that are not listed as errors."""
    evaluation, data, drawn = analysis.evaluation, analysis.test, draw_images(analysis.evaluation)
    others = drawn[~torch.isin(drawn, analysis.indices)]
    return {
        "drawn": drawn.tolist(),
        "doubted": None if analysis.doubt is None else (analysis.doubt[drawn] > 0).tolist(),
        "index": others.tolist(),
        "file": [data.files[index] for index in others.tolist()],
        "label": data.labels[others].tolist(),
        "prediction": evaluation.predictions[others].tolist(),
        "pictures": pack_images(analysis, others),
    }


def pack_images(analysis: ErrorAnalysis, indices: Tensor) -> schema.Pictures:
    """Images of the data set; as original pictures if a model takes them cropped or squeezed."""
    data = analysis.test
    geometries = [explained.evaluation.model.geometry for explained in analysis.explanations]
    with quiet_pillow(), ThreadPoolExecutor() as pool:  # reads the files of the photos
        pictures = list(pool.map(lambda index: data.displayed(index, geometries, MAX_SIDE), indices.tolist()))
    if all(windows is None for _, windows in pictures):
        return pack_pictures(data.batches(PER_SHEET, indices), len(indices), data.size, MAX_SIDE)
    return pack_photos([(picture, windows or [WHOLE] * len(geometries)) for picture, windows in pictures], MAX_SIDE)
