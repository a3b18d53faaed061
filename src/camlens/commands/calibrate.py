"""`camlens calibrate`: fit a temperature, so that a network's confidence matches its accuracy."""

import logging
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.data.sources import splits_of
from camlens.files import out_folder


def calibrate(
    model: opt.ModelArgument = None,
    model_option: opt.ModelOption = None,
    weights: opt.Weights = None,
    outputs: opt.Outputs = None,
    resize: opt.Resize = None,
    crop: opt.Crop = None,
    interpolation: opt.Interpolation = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    data: opt.Data = "cifar10",
    data_dir: opt.DataDir = None,
    class_order: opt.ClassOrder = None,
    split: Annotated[
        Literal["train", "val", "test"] | None, Option(help="The split to use.", show_default="val, or else test")
    ] = None,
    skip_unreadable: opt.SkipUnreadable = False,
    max_megapixels: opt.MaxMegapixels = None,
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

    log, spec = logging.getLogger("camlens"), model or model_option or opt.SHIPPED_MODEL
    preprocess = opt.preprocess_changes(resize, crop, interpolation, mean, std)
    classifier = opt.load_model(model, model_option, weights, device, outputs, preprocess)
    split = split or ("val" if "val" in splits_of(data) else None)
    classifier, images = opt.load_images(classifier, data, split, data_dir, skip_unreadable, class_order)
    dataset = f"{images.name}, {images.split}"
    trained = was_trained_on(weights or Path(spec), images)
    if trained:
        log.warning(f"{spec} was trained on {dataset}, so the temperature will make it overconfident; use other images")
    elif trained is None:
        log.warning(f"it is unknown whether {spec} was trained on {dataset}; if so, it will be overconfident")
    evaluation = evaluate(classifier, images, batch)
    fitted = fit_temperature(evaluation.logits, evaluation.labels)
    classifier, path = evaluation.model, None
    classifier.temperature = fitted.value
    if isinstance(bare(classifier), ResNet) and isinstance(classifier.preprocess, Preprocess):
        path = out_folder(out) / checkpoint.WEIGHTS
        checkpoint.save(path, classifier)
    else:
        reason = "no file was written: camlens writes only its own ResNets with a camlens.Preprocess"
        log.warning(f"{reason}; give --temperature {fitted.value:.6g} wherever you give {spec}")
    if as_json:
        metrics, keys = evaluation.metrics(), ("temperature", "n", "ece", "nll", "ece_by_chance", "uncalibrated")
        calibration = {key: metrics[key] for key in keys} | {"standard_error": fitted.standard_error}
        print_json(calibration | {"file": None if path is None else str(path)})
        return
    console.print(f"{dataset}: {fitted}\non these images, to which it was fitted:\n{evaluation.in_words()}")
    if path is not None:
        print_paths(path)
