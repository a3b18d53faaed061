"""`camlens explore`: the error report as a web page that also explains any picture."""

import logging
from pathlib import Path
from typing import Annotated

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console
from camlens.errors import CamlensError


@opt.expand
def explore(
    model: opt.ModelOptions,
    data: opt.DataOptions,
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

    classifier = model.load(device)
    classifier, test, train = data.load_with_train(classifier)
    if train is None:
        data.warn_without_train()
    explain, page = explorer.prepare_explorer(classifier, test, train, out, batch)
    if not explorer.is_loopback(host):
        logging.getLogger("camlens").warning("anyone who can reach %s can use it; there is no password", host)
    explorer.serve(
        explain, page, host, port, lambda address: console.print(f"open {address} (Ctrl-C stops the server)")
    )
