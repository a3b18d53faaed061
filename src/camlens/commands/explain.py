"""`camlens explain`: the predicted classes of pictures, and the evidence for them."""

import logging
from collections.abc import Iterable
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from typer import Argument, Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.errors import DataError, UsageError
from camlens.files import out_folder

log = logging.getLogger("camlens")
BATCH = 8  # pictures in memory at a time


@partial(opt.expand, without="argument")
def explain(
    images: Annotated[
        list[Path], Argument(metavar="IMAGE...", help="Image files of any kind and size, or folders of them.")
    ],
    model: opt.ModelOptions,
    layer: opt.Layers = None,
    method: Annotated[
        str, Option(help='{layer_methods}; "all" of these; or, with the extra captum, {pixel_methods}.')
    ] = "grad-cam",
    target: Annotated[str | None, Option(help="Class to explain.", show_default="the predicted one")] = None,
    against: Annotated[str | None, Option(help="Explain the difference to this class.")] = None,
    top: Annotated[int, Option(min=1, help="Number of classes to list.")] = 5,
    max_megapixels: opt.MaxMegapixels = None,
    device: opt.Device = "auto",
    out: opt.Out = opt.OUT / "explain",
    as_json: opt.AsJson = False,
) -> None:
    """Classify pictures and draw heat maps of the evidence."""
    from camlens.analyse.explanations import explain_pictures
    from camlens.data.folder import find_pictures
    from camlens.data.pictures import read_picture
    from camlens.maps.explain import validate
    from camlens.progress import track
    from camlens.show import draw

    classifier = model.load(device)
    validate(classifier, "hirescam" if method == "all" else method, layer)
    first, second = (name and classifier.class_index(name) for name in (target, against))
    if first is not None and first == second:
        raise UsageError(f"why {target} and not {against}? Give another class to explain it against")
    paths = [path for source in images for path in (find_pictures(source) if source.is_dir() else [source])]
    names = unique_names(path.stem for path in paths)  # two folders may have pictures of the same name
    folder, results, unreadable = out_folder(out), list[dict[str, Any]](), list[str]()
    batches = [slice(start, start + BATCH) for start in range(0, len(paths), BATCH)]
    for batch in track(batches, "explaining the pictures"):
        readable = []
        for path, name in zip(paths[batch], names[batch], strict=True):
            try:
                readable.append((path, name, read_picture(path)))
            except DataError as error:
                unreadable.append(str(error))
        pictures = [picture for _, _, picture in readable]
        explained = explain_pictures(classifier, pictures, layer, method, target, against, top) if pictures else []
        for (path, name, picture), result in zip(readable, explained, strict=True):
            if result.target == result.against:
                log.warning("%s is skipped: its prediction is %s", path, result.against)
                continue
            figure = draw.picture(path.name, picture, result, method, classifier.geometry).save(folder / f"{name}.png")
            results.append({"image": str(path), "classes": dict(result.probabilities), "figure": str(figure)})
    if as_json:
        print_json(results)
    else:
        print_results(results)
    if unreadable:
        lines = "\n  ".join(unreadable)
        raise DataError(f"{len(unreadable)} of {len(paths)} pictures cannot be read:\n  {lines}")


def print_results(results: list[dict[str, Any]]) -> None:
    """Print a table of the likely classes of each picture, and the files of the figures."""
    for result in results:
        table = Table("class", "probability", title=result["image"], title_justify="left", box=None, min_width=40)
        for name, probability in result["classes"].items():
            table.add_row(name, f"{100 * probability:.1f} %")
        console.print(table)
    if results:
        print_paths(*(result["figure"] for result in results))


def unique_names(stems: Iterable[str]) -> list[str]:
    """Make names unique by numbers, also if they differ only by case, which some file systems ignore."""
    names: dict[str, str] = {}
    for stem in stems:
        candidates = chain([stem], (f"{stem}-{number}" for number in count(2)))
        name = next(name for name in candidates if name.casefold() not in names)
        names[name.casefold()] = name
    return list(names.values())
