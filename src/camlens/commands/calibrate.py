"""`camlens calibrate`: fit a temperature, so that a network's confidence matches its accuracy."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.data.sources import splits_of
from camlens.files import out_folder


@partial(opt.expand, without="temperature")
def calibrate(
    model: opt.ModelOptions,
    data: opt.DataOptions,
    split: Annotated[
        Literal["train", "val", "test"] | None, Option(help="The split to use.", show_default="val, or else test")
    ] = None,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    out: opt.Out = opt.OUT / "calibrate",
    as_json: opt.AsJson = False,
) -> None:
    """Fit the temperature of a network on images not used in training, and write the weights with it."""
    from camlens.analyse.evaluation import evaluate
    from camlens.model import checkpoint
    from camlens.model.classifier import bare
    from camlens.model.preprocess import Preprocess
    from camlens.model.resnet import ResNet
    from camlens.model.temperature import fit_temperature
    from camlens.train.run_folder import was_trained_on

    log, name = logging.getLogger("camlens"), model.name
    classifier = model.load(device)
    split = split or ("val" if "val" in splits_of(data.data) else None)
    classifier, images = data.load(classifier, split)
    dataset = f"{images.name}, {images.split}"
    trained = was_trained_on(model.weights or Path(name), images)
    if trained:
        log.warning(f"{name} was trained on {dataset}, so the temperature will make it overconfident; use other images")
    elif trained is None:
        log.warning(f"it is unknown whether {name} was trained on {dataset}; if so, it will be overconfident")
    evaluation = evaluate(classifier, images, batch)
    fitted = fit_temperature(evaluation.logits, evaluation.labels)
    classifier, path = evaluation.model, None
    classifier.temperature = fitted.value
    if isinstance(bare(classifier), ResNet) and isinstance(classifier.preprocess, Preprocess):
        path = out_folder(out) / checkpoint.WEIGHTS
        checkpoint.save(path, classifier)
    else:
        reason = "no file was written: camlens writes only its own ResNets with a camlens.Preprocess"
        log.warning(f"{reason}; give --temperature {fitted.value:.6g} wherever you give {name}")
    if as_json:
        metrics, keys = evaluation.metrics(), ("temperature", "n", "ece", "nll", "ece_by_chance", "uncalibrated")
        calibration = {key: metrics[key] for key in keys} | {"standard_error": fitted.standard_error}
        print_json(calibration | {"file": None if path is None else str(path)})
        return
    console.print(f"{dataset}: {fitted}\non these images, to which it was fitted:\n{evaluation.in_words()}")
    if path is not None:
        print_paths(path)
