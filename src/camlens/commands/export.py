"""`camlens export`: prediction and maps as an ONNX file."""

from functools import partial
from typing import Annotated

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.errors import CamlensError, unknown
from camlens.files import out_folder


@partial(opt.expand, without="outputs")
def export(
    model: opt.ModelOptions,
    data: opt.DataOptions,
    layer: Annotated[list[str] | None, Option(help="Also export maps of this layer: layer3 of ResNets.")] = None,
    int8: Annotated[
        bool, Option("--int8", help="Quantise to int8, calibrated on training images: smaller and faster.")
    ] = False,
    out: opt.Out = opt.OUT / "export",
    as_json: opt.AsJson = False,
) -> None:
    """Write logits and maps as one ONNX graph, model.onnx, and compare it with the network on the test images."""
    try:
        from camlens.show.export.write import changes_in_words, write
    except ModuleNotFoundError as error:
        raise CamlensError(f"export needs {error.name}; install it with: pip install 'camlens[onnx]'") from error

    classifier = model.load("cpu")
    layers, known = layer or (), ("layer3", classifier.find_layers()[-1])
    for name in layers:
        if name not in known:
            raise unknown("layer", name, known, "an export")
    classifier, test, train = data.load_with_train(classifier)
    path = out_folder(out) / "model.onnx"
    comparison = write(classifier, path, test, train, layer3="layer3" in layers, int8=int8)
    if as_json:
        print_json({"file": str(path), "bytes": path.stat().st_size, **comparison})
        return
    difference, accuracy = comparison["largest_difference"], comparison["accuracy"]
    measure = f"largest difference from the network on {comparison['images']:,} images"
    console.print(f"{measure}: {difference['logits']:.2g} in a logit, {difference['maps']:.2g} in a map")
    if int8:
        correlation = comparison["map_correlation"]
        console.print(
            f"accuracy {100 * accuracy['file']:.2f} %, of the network {100 * accuracy['network']:.2f} %: "
            f"{changes_in_words(comparison)}; correlation "
            f"of each image's maps {correlation['median']:.4f} (median), "
            f"{correlation['5th percentile']:.4f} (5th percentile)"
        )
    print_paths(path)
