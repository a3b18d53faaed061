"""`camlens gallery`: pictures of the errors, with heat maps."""

from typing import Annotated, Literal

from typer import Option

from camlens.analyse.orders import ORDERS, Sort
from camlens.commands import options as opt
from camlens.commands.console import console, print_paths
from camlens.errors import CamlensError, UsageError
from camlens.files import out_folder


@opt.expand
def gallery(
    model: opt.ModelOptions,
    data: opt.DataOptions,
    split: opt.Split = None,
    layer: opt.Layers = None,
    method: Annotated[str, Option(help="{layer_methods}.")] = "grad-cam",
    count: Annotated[int, Option(min=1, help="Number of errors to show.")] = 12,
    sort: Annotated[Sort, Option(help="Most confident first, largest margin first, or at random.")] = "confidence",
    true: Annotated[str | None, Option(help="Only errors with this label.")] = None,
    pred: Annotated[str | None, Option(help="Only errors with this prediction.")] = None,
    format: Annotated[Literal["png", "pdf"], Option(help="File format of the figures.")] = "png",
    raw: Annotated[bool, Option("--raw", help="Also write the raw maps: maps.npz.")] = False,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    out: opt.Out = opt.OUT / "gallery",
) -> None:
    """Draw misclassified images with heat maps for the prediction, for the label, and of their contrast."""
    from camlens.analyse.evaluation import evaluate
    from camlens.maps.explain import validate
    from camlens.show import draw

    classifier = model.load(device)
    method_spec = validate(classifier, method, layer)
    if method_spec.level == "pixels":
        raise UsageError(
            f"the gallery shows maps of layers, and {method_spec.name} explains the pixels; choose another method"
        )
    classifier, images = data.load(classifier, split)
    label, prediction = (None if name is None else classifier.class_index(name) for name in (true, pred))
    folder = out_folder(out)
    evaluation = evaluate(classifier, images, batch)
    indices = evaluation.errors(sort, label, prediction, seed)
    console.print(evaluation.in_words())
    if len(indices) == 0:
        condition = f"{f' labelled {true}' if true else ''}{f' predicted as {pred}' if pred else ''}"
        raise CamlensError(f"there is no error{condition} to show")
    subtitle = f"{min(count, len(indices))} of {len(indices):,} errors, {ORDERS[sort]}."
    print_paths(*draw.gallery(evaluation, indices[:count], subtitle, folder, layer, method_spec.name, format, raw))
