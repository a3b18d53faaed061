"""`camlens explore`: the error report as a web page that also explains any picture."""

import logging
from pathlib import Path
from typing import Annotated

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console
from camlens.errors import CamlensError


def explore(
    model: opt.ModelArgument = None,
    model_option: opt.ModelOption = None,
    weights: opt.Weights = None,
    outputs: opt.Outputs = None,
    temperature: opt.Temperature = None,
    resize: opt.Resize = None,
    crop: opt.Crop = None,
    interpolation: opt.Interpolation = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    data: opt.Data = "cifar10",
    data_dir: opt.DataDir = None,
    class_order: opt.ClassOrder = None,
    skip_unreadable: opt.SkipUnreadable = False,
    max_megapixels: opt.MaxMegapixels = None,
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 admits other machines.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8000,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    out: Annotated[Path, Option(help="Folder of the report, which is written if missing.")] = opt.OUT / "report",
) -> None:
    """Serve the error report as a page that also explains any picture dropped onto it."""
    try:
        from camlens.show import explorer
    except ModuleNotFoundError as error:
        raise CamlensError(f"explore needs {error.name}; install it with: pip install 'camlens[explore]'") from error

    preprocess = opt.preprocess_changes(resize, crop, interpolation, mean, std)
    classifier = opt.load_model(model, model_option, weights, device, outputs, preprocess, temperature)
    classifier, test, train = opt.load_test_and_train(classifier, data, data_dir, skip_unreadable, class_order)
    if train is None:
        opt.warn_without_train(data)
    explain, page = explorer.prepare_explorer(classifier, test, train, out, batch)
    if not explorer.is_loopback(host):
        logging.getLogger("camlens").warning("anyone who can reach %s can use it; there is no password", host)
    explorer.serve(
        explain, page, host, port, lambda address: console.print(f"open {address} (Ctrl-C stops the server)")
    )
