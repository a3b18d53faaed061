"""`camlens explain`: what is in a picture, and where the network saw it."""

from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from typer import Argument, Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.files import out_folder


def explain(
    images: Annotated[list[Path], Argument(metavar="IMAGE...", help="Image files of any kind and size.")],
    model: opt.ModelOption = None,
    weights: opt.Weights = None,
    outputs: opt.Outputs = None,
    temperature: opt.Temperature = None,
    resize: opt.Resize = None,
    crop: opt.Crop = None,
    interpolation: opt.Interpolation = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
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
    from camlens.analyse.explanations import explain_picture
    from camlens.data.pictures import read_picture
    from camlens.maps.explain import validate
    from camlens.progress import track
    from camlens.show import draw

    shown = opt.shown(resize, crop, interpolation, mean, std)
    classifier = opt.load_model(None, model, weights, device, outputs, shown, temperature)
    validate(classifier, "hirescam" if method == "all" else method, layer)
    for name in filter(None, (target, against)):
        classifier.class_index(name)
    pictures = [(path.name, read_picture(path)) for path in images]
    folder = out_folder(out)
    explained = [
        explain_picture(classifier, picture, layer, method, target, against, top, name)
        for name, picture in track(pictures, "explaining the pictures")
    ]
    results: list[dict[str, Any]] = []
    names = unique_names(path.stem for path in images)  # two folders may hold pictures of one name
    for path, name, (title, picture), found in zip(images, names, pictures, explained, strict=True):
        figure = draw.picture(title, picture, found, method, classifier.geometry).save(folder / f"{name}.png")
        results.append({"image": str(path), "classes": dict(found.probabilities), "figure": str(figure)})
    if as_json:
        print_json(results)
        return
    for result in results:
        table = Table("class", "probability", title=result["image"], title_justify="left", box=None, min_width=40)
        for name, probability in result["classes"].items():
            table.add_row(name, f"{100 * probability:.1f} %")
        console.print(table)
    print_paths(*(result["figure"] for result in results))


def unique_names(stems: Iterable[str]) -> list[str]:
    """Number the names that are taken already, also where only their case differs: some file systems ignore it."""
    taken: dict[str, str] = {}
    for stem in stems:
        candidates = chain([stem], (f"{stem}-{number}" for number in count(2)))
        name = next(name for name in candidates if name.casefold() not in taken)
        taken[name.casefold()] = name
    return list(taken.values())
