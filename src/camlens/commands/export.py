"""`camlens export`: prediction and maps as an ONNX file."""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.errors import CamlensError, unknown
from camlens.files import out_folder


def export(
    model: opt.ModelArgument = None,
    model_option: opt.ModelOption = None,
    weights: opt.Weights = None,
    data: opt.Data = "cifar10",
    data_dir: opt.DataDir = None,
    skip_unreadable: opt.SkipUnreadable = False,
    layer: Annotated[
        list[str] | None,
        Option("--layer", help="layer3, of camlens' own ResNets; the last layer is always exported."),
    ] = None,
    int8: Annotated[
        bool, Option("--int8", help="Quantise to int8, calibrated on training images: smaller and faster.")
    ] = False,
    out: opt.Out = Path("out/export"),
    as_json: opt.AsJson = False,
) -> None:
    """Write logits and maps as one ONNX graph, model.onnx, and compare it with the network on the test images."""
    try:
        from camlens.show.export.write import write
    except ModuleNotFoundError as error:
        raise CamlensError(f"export needs {error.name}; install it with: pip install 'camlens[onnx]'") from error
    from camlens.commands.inputs import load_model, load_test_and_train

    classifier = load_model(model, model_option, weights, "cpu")
    for name in layer or ():
        if name not in ("layer3", classifier.find_layers()[-1]):
            raise unknown("layer", name, ("layer3", classifier.find_layers()[-1]), "an export")
    test, train = load_test_and_train(data, classifier.input_size, data_dir, skip_unreadable)
    path = out_folder(out) / "model.onnx"
    comparison = write(classifier, path, test, train, layer3="layer3" in (layer or ()), int8=int8)
    if as_json:
        print_json({"file": str(path), "bytes": path.stat().st_size, **comparison})
        return
    print_comparison(comparison, int8)
    print_paths(path)


def print_comparison(comparison: dict[str, Any], int8: bool) -> None:
    """Say how much the file differs from the network."""
    difference = comparison["largest_difference"]
    console.print(
        f"largest difference from the network on {comparison['images']:,} images: {difference['logits']:.2g} in a "
        f"logit, {difference['maps']:.2g} in a map"
    )
    if int8:
        accuracy, correlation = comparison["accuracy"], comparison["map_correlation"]
        console.print(
            f"accuracy {100 * accuracy['file']:.2f} %, of the network {100 * accuracy['network']:.2f} %; correlation "
            f"of each image's maps {correlation['median']:.4f} (median), "
            f"{correlation['5th percentile']:.4f} (5th percentile)"
        )
