"""The command line: one function a command. Everything heavy is imported inside them, so that help is quick."""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from camlens.errors import CamlensError, DataError, UsageError, unknown
from camlens.files import out_folder, write_json, write_text

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset
    from camlens.data.pictures import Size
    from camlens.model.classifier import Classifier
    from camlens.train.resume import RunSettings

SHIPPED = "resnet18-cifar10"
DEMO_KNOWS = 5_000  # training images

plain = functools.partial(Console, markup=False, emoji=False, highlight=False, soft_wrap=True)  # a name is only a name
say, aside = plain(), plain(stderr=True)


def complain(message: str) -> None:
    """Print an error to where errors go."""
    rank = int(os.environ.get("RANK", "0"))
    aside.print(f"error on process {rank}:" if rank else "error:", style="bold red", end=" ")
    aside.print(message)


class Notes(logging.Handler):
    """Shows the package's warnings as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        if not say.quiet:  # another process says it
            aside.print(f"note: {record.getMessage()}")


Sort = Literal["confidence", "margin", "random"]
ORDERS: dict[Sort, str] = {
    "confidence": "the most confident first",
    "margin": "the largest margins first",
    "random": "picked at random",
}

MODEL_HELP = f"{SHIPPED}, a run folder, a file of weights, an exported .onnx or module:function."
ModelArgument = Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP, show_default=SHIPPED)]
ModelOption = Annotated[str | None, typer.Option("--model", metavar="MODEL", help=MODEL_HELP, show_default=SHIPPED)]
Weights = Annotated[Path | None, typer.Option(help="Weights for the network of module:function.")]
DATA_HELP = "cifar10, shapes, shapes-shortcut, or a folder with train/<class>/* and test/<class>/*."
Data = Annotated[str, typer.Option(help=DATA_HELP)]
DataDir = Annotated[Path | None, typer.Option(help="Where CIFAR-10 is looked for first, and downloaded to.")]
SkipUnreadable = Annotated[bool, typer.Option("--skip-unreadable", help="Go on without pictures that cannot be read.")]
Split = Annotated[Literal["train", "test"], typer.Option(help="Which part of the data.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Batch = Annotated[int, typer.Option(min=1, help="Images at a time.")]
Seed = Annotated[int, typer.Option(min=0, help="Where random choices start.")]
Layers = Annotated[list[str] | None, typer.Option("--layer", help="A layer to look at; may be given several times.")]
METHODS_HELP = "grad-cam, grad-cam++, hirescam, layercam, xgrad-cam, eigen-cam, score-cam, ablation-cam or finer-cam"
PIXELS_HELP = "integrated-gradients, smoothgrad or guided-backprop, with the extra captum"
Method = Annotated[str, typer.Option(help=f"{METHODS_HELP}.")]
Out = Annotated[Path, typer.Option(help="The folder for what is made.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]

app = typer.Typer(
    help="Why did my network get this picture wrong?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: camlens demo",
)


def main() -> None:
    """Entry point of the `camlens` command."""
    # torch's threads on Linux wait for each other by spinning, and where another program takes a core they spin for
    # long: training in steps this small becomes several times slower. Sleeping sooner costs an idle machine little.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    logging.getLogger("camlens").addHandler(Notes())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        app(prog_name="camlens")
    except SystemExit as end:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            leave(end.code)
        raise


def leave(code: Any) -> None:
    """End a process of torchrun with this exit code, without taking the interpreter down first.

    Threads of gloo may still hold tensors then. One that lets go of a tensor while the interpreter is going away ends
    the process by SIGABRT (pytorch issue 190489), and torchrun counts a run that had finished as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


received: list[int] = []  # signals


def interrupt(number: int, _frame: Any) -> None:
    """End the command under way, so that it cleans up behind itself."""
    received.append(number)
    raise KeyboardInterrupt


def command(example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command whose help ends with an example.

    Its errors become a message and an exit code: 1 failed, 2 wrong usage, 128 + signal when stopped.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> None:
            try:
                function(*arguments, **options)
            except CamlensError as error:
                complain(str(error))
                sys.exit(error.exit_code)
            except KeyboardInterrupt:
                complain("stopped")
                sys.exit(128 + (received or [signal.SIGINT])[0])
            except BrokenPipeError:  # who read our output has enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(128 + 13)  # SIGPIPE
            except Exception as error:
                if os.environ.get("CAMLENS_DEBUG"):
                    raise
                complain(f"{type(error).__name__}: {error} (CAMLENS_DEBUG=1 shows where)")
                sys.exit(1)
            if received:  # within a callback of a library, which passed over it
                sys.exit(128 + received[0])

        return app.command(epilog=f"Example: camlens {example}")(guarded)

    return register


def print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        import camlens

        say.print(f"camlens {camlens.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Why did my network get this picture wrong?"""


@command("data --data shapes")
def data(
    data: Data = "cifar10",
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    seed: Seed = 0,
    out: Out = Path("out/data"),
    as_json: AsJson = False,
) -> None:
    """Count the images of each class and draw ten of each: overview.png."""
    from camlens.show import draw

    sets = [load_split(data, split, data_dir, skip_unreadable) for split in splits_of(data)]
    path = draw.overview(sets, seed, out_folder(out))
    facts = [images.facts() for images in sets]
    if as_json:
        print_json({"data": data, "splits": facts, "overview": str(path)})
        return
    table = Table("class", title=f"{data}: {sum(map(len, sets)):,} images", title_justify="left")
    for images in sets:
        table.add_column(images.split, justify="right")
    for name in sets[0].class_names:
        table.add_row(name, *(f"{fact['counts'][name]:,}" for fact in facts))
    table.add_section()
    table.add_row("all", *(f"{len(images):,}" for images in sets))
    say.print(table)
    for fact in facts:
        mean, std = (" ".join(f"{x:.4f}" for x in fact[key]) for key in ("mean", "std"))
        say.print(f"{fact['split']}: {fact['size']}, channel mean {mean}, standard deviation {std}")
        if "planted" in fact:
            say.print("  planted: " + ", ".join(f"{n} {cause}" for cause, n in fact["planted"].items()))
    made(path)


@command("summary resnet50 --stem imagenet --input 3x224x224 --classes 1000 --detail")
def summary(
    network: Annotated[
        str,
        typer.Argument(help="resnet18, 34, 50, 101 or 152, a run folder, a .safetensors file or module:function."),
    ] = "resnet18",
    input: Annotated[str | None, typer.Option(help="Channels x height x width.", show_default="its own")] = None,
    classes: Annotated[int, typer.Option(min=1, help="Classes of a network given by name.")] = 10,
    width: Annotated[int, typer.Option(min=1, help="Channels of its first stage.")] = 64,
    stem: Annotated[
        Literal["small", "imagenet"], typer.Option(help="Its first layers, by the size of the images.")
    ] = "small",
    detail: Annotated[bool, typer.Option("--detail", help="Multiply-adds and receptive fields too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every layer of a network with its output shape and parameters."""
    from dataclasses import asdict

    from camlens.model.checkpoint import find_network
    from camlens.model.resnet import RESNETS, ResNet
    from camlens.model.summary import summarise

    named = network in RESNETS
    module, shape = (ResNet(network, classes, width, stem), (3, 32, 32)) if named else find_network(network)
    found = summarise(module, parse_shape(input) if input else shape)
    if as_json:
        print_json(asdict(found))
    else:
        print(found.table(detail))


@command("train --recipe quick --set epochs=3 --out out/quick")
def train(
    data: Annotated[str | None, typer.Option(help=DATA_HELP, show_default="cifar10, or the resumed run's")] = None,
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    recipe: Annotated[
        str | None, typer.Option(help="quick, cpu, long, fast, best, finetune or shapes.", show_default="quick")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Weights to start from; a fresh last layer for other classes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Where random choices start.", show_default="0")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Device = "auto",
    bf16: Annotated[
        bool | None, typer.Option("--bf16/--no-bf16", help="Arithmetic in bfloat16.", show_default="where faster")
    ] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the network.", show_default="where faster")
    ] = None,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last/--no-channels-last", help="Memory layout.", show_default="on")
    ] = None,
    save_every: Annotated[float, typer.Option(min=0, help="Seconds between two checkpoints.")] = 120.0,
    out: Out = Path("out/train"),
) -> None:
    """Train a network into a run folder, and report on the test images. Under torchrun, on many processes."""
    from camlens.analyse.evaluation import evaluate
    from camlens.runtime.processes import join_processes
    from camlens.train.recipe import find_recipe
    from camlens.train.resume import resolve_settings
    from camlens.train.run_folder import RunFolder

    compute = {"bf16": bf16, "compiled": compiled, "channels_last": channels_last}
    with join_processes(pick_device(device)) as (processes, where):
        say.quiet = not processes.is_main
        settings = resolve_settings(
            RunFolder(out),
            find_recipe(recipe) if recipe else None,
            changes or (),
            seed=seed,
            source=data,
            init=init,
            device=where,
            compute={name: on for name, on in compute.items() if on is not None},
            resume=resume,
            processes=processes,
        )
        source, side = settings.source or "cifar10", max(settings.recipe.sizes)
        with processes.local_main_first():
            images, test = (
                load_split(source, split, data_dir, skip_unreadable, (side, side))
                if split in splits_of(source)
                else None
                for split in ("train", "test")
            )
        if images is None:
            raise DataError(f"{source} has no folder train/<class>/* to learn from")
        model, paths = train_into(settings, images, save_every=save_every, processes=processes)
        if test is None:
            say.print(f"{source} has no test images to report on")
        else:
            evaluation = evaluate(model, test, processes=processes)
            if processes.is_main:
                write_json(out / "metrics.json", evaluation.metrics())
            say.print(evaluation.in_words())
            paths.append(out / "metrics.json")
        made(*paths)


@command("evaluate out/train")
def evaluate(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    weights: Weights = None,
    data: Data = "cifar10",
    data_dir: DataDir = None,
    split: Split = "test",
    skip_unreadable: SkipUnreadable = False,
    device: Device = "auto",
    batch: Batch = 250,
    corrections: Annotated[
        Path | None, typer.Option(metavar="MARKS.CSV", help="Marks of errors, as the report saves them.")
    ] = None,
    out: Out = Path("out/evaluate"),
    as_json: AsJson = False,
) -> None:
    """Measure a network on every image: accuracy, calibration, confusion matrix."""
    from camlens.analyse.evaluation import evaluate as run
    from camlens.analyse.marks import WRONG, corrected, read_marks
    from camlens.show import draw

    classifier = load_model(model, model_option, weights, device)
    images = classifier.match(load_split(data, split, data_dir, skip_unreadable, classifier.input_size))
    marks = read_marks(corrections, images) if corrections else None
    folder = out_folder(out)
    evaluation = run(classifier, images, batch)
    paths = draw.evaluation(evaluation, folder)
    metrics = evaluation.metrics()
    after = None if marks is None else corrected(evaluation, marks)
    if after is not None:
        metrics["corrected"] = {key: after.metrics()[key] for key in ("n", "errors", "accuracy", "interval")}
        write_json(folder / "metrics.json", metrics)
    if as_json:
        print_json(metrics)
        return
    table = Table("class")
    for heading in ("images", "accuracy", "precision"):
        table.add_column(heading, justify="right")
    for name, of_class in metrics["per_class"].items():
        shares = ("-" if of_class[key] is None else f"{100 * of_class[key]:.1f} %" for key in ("accuracy", "precision"))
        table.add_row(name, f"{of_class['n']:,}", *shares)
    say.print(table)
    say.print(evaluation.in_words())
    if after is not None and marks is not None:
        ambiguous = sum(mark == "ambiguous" for mark in marks.values())
        relabelled = sum(mark.startswith(WRONG) for mark in marks.values())
        say.print(f"by {corrections}, {relabelled} labels replaced and {ambiguous} ambiguous images left out:")
        say.print(after.in_words())
    made(*paths)


@command("gallery out/train --true cat --pred dog --count 10")
def gallery(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    weights: Weights = None,
    data: Data = "cifar10",
    data_dir: DataDir = None,
    split: Split = "test",
    skip_unreadable: SkipUnreadable = False,
    layer: Layers = None,
    method: Method = "grad-cam",
    count: Annotated[int, typer.Option(min=1, help="How many errors to show.")] = 12,
    sort: Annotated[
        Sort, typer.Option(help="Most confident first, largest margin first, or at random.")
    ] = "confidence",
    true: Annotated[str | None, typer.Option(help="Only errors whose label is this class.")] = None,
    pred: Annotated[str | None, typer.Option(help="Only errors taken for this class.")] = None,
    format: Annotated[Literal["png", "pdf"], typer.Option(help="Kind of figure file.")] = "png",
    raw: Annotated[bool, typer.Option("--raw", help="Write the raw maps too: maps.npz.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    batch: Batch = 250,
    out: Out = Path("out/gallery"),
) -> None:
    """Draw the misclassified images, and where the network looked in each."""
    from camlens.analyse.evaluation import evaluate as run
    from camlens.maps.methods import METHODS
    from camlens.show import draw

    classifier = load_model(model, model_option, weights, device)
    method = check_maps(classifier, layer, method)
    if METHODS[method].level == "pixels":
        raise UsageError(f"the gallery looks at layers, and {method} explains the pixels; choose another method")
    images = classifier.match(load_split(data, split, data_dir, skip_unreadable, classifier.input_size))
    label, prediction = (None if name is None else classifier.class_index(name) for name in (true, pred))
    folder = out_folder(out)
    evaluation = run(classifier, images, batch)
    indices = evaluation.errors(sort, label, prediction, seed)
    say.print(evaluation.in_words())
    if len(indices) == 0:
        wanted = f"{f' labelled {true}' if true else ''}{f' taken for {pred}' if pred else ''}"
        raise CamlensError(f"there is no error{wanted} to show")
    facts = f"{min(count, len(indices))} of {len(indices):,} errors, {ORDERS[sort]}."
    made(*draw.gallery(evaluation, indices[:count], facts, folder, layer, method, format, raw))


@command("report out/train")
def report(
    model: ModelArgument = None,
    second: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL_B]", help="Another: what it fixed, and what it broke.", show_default=False),
    ] = None,
    model_option: ModelOption = None,
    weights: Weights = None,
    data: Data = "cifar10",
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    device: Device = "auto",
    batch: Batch = 250,
    out: Out = Path("out/report"),
) -> None:
    """Write one HTML file that shows every error, where the network looked, and what it had learned it from."""
    from camlens.show.report import write

    classifier = load_model(model, model_option, weights, device)
    models = [classifier] if second is None else [classifier, load_model(second, None, None, device)]
    test, train = load_both(data, data_dir, skip_unreadable, classifier.input_size)
    made(write(models, test, train, out_folder(out) / "report.html", batch))


@command("explore out/train")
def explore(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    weights: Weights = None,
    data: Data = "cifar10",
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    device: Device = "auto",
    batch: Batch = 250,
    out: Annotated[Path, typer.Option(help="The folder of the report: taken from there, or made there.")] = Path(
        "out/report"
    ),
) -> None:
    """Serve the error report with a place to drop any picture: what the network says of it, and why."""
    try:
        from camlens.show import explorer
    except ModuleNotFoundError as error:
        raise CamlensError(f"explore needs {error.name}; install it with: pip install 'camlens[explore]'") from error
    classifier = load_model(model, model_option, weights, device)
    test, train = load_both(data, data_dir, skip_unreadable, classifier.input_size)
    explain, page = explorer.prepare(classifier, test, train, out, batch)
    if not explorer.is_loopback(host):
        logging.getLogger("camlens").warning("whoever reaches %s can use it; there is no password", host)
    explorer.serve(explain, page, host, port, lambda address: say.print(f"open {address} (Ctrl-C ends it)"))


@command("explain photo.jpg --model out/train --layer layer3 --against dog")
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures of any kind and size.")],
    model: ModelOption = None,
    weights: Weights = None,
    layer: Layers = None,
    method: Annotated[str, typer.Option(help=f'{METHODS_HELP}; "all" of these; or {PIXELS_HELP}.')] = "grad-cam",
    target: Annotated[str | None, typer.Option(help="The class to explain.", show_default="the predicted one")] = None,
    against: Annotated[str | None, typer.Option(help="Explain why not this class.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to list.")] = 5,
    device: Device = "auto",
    out: Out = Path("out/explain"),
    as_json: AsJson = False,
) -> None:
    """Say what is on a picture and where the network saw it."""
    from camlens.data.pictures import read_picture
    from camlens.progress import track
    from camlens.show import draw

    classifier = load_model(None, model, weights, device)
    check_maps(classifier, layer, "hirescam" if method == "all" else method)
    for name in filter(None, (target, against)):
        classifier.class_index(name)
    pictures = [read_picture(path) for path in images]
    folder = out_folder(out)
    explained = [
        draw.picture(classifier, picture, path.name, layer, method, target, against, top)
        for path, picture in track(list(zip(images, pictures, strict=True)), "explaining the pictures")
    ]
    answers: list[dict[str, Any]] = []
    names = distinct([path.stem for path in images])  # two folders may hold pictures of one name
    for path, name, (likeliest, sheet) in zip(images, names, explained, strict=True):
        figure = sheet.save(folder / f"{name}.png")
        answers.append({"image": str(path), "classes": dict(likeliest), "figure": str(figure)})
    if as_json:
        print_json(answers)
        return
    for answer in answers:
        table = Table("class", "probability", title=answer["image"], title_justify="left", box=None, min_width=40)
        for name, share in answer["classes"].items():
            table.add_row(name, f"{100 * share:.1f} %")
        say.print(table)
    made(*(answer["figure"] for answer in answers))


@command("export out/train --int8")
def export(
    model: ModelArgument = None,
    model_option: ModelOption = None,
    weights: Weights = None,
    data: Data = "cifar10",
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", help="layer3 of our ResNets too; the last layer is always there.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="In whole numbers, calibrated on training images: smaller and faster.")
    ] = False,
    out: Out = Path("out/export"),
    as_json: AsJson = False,
) -> None:
    """Write prediction and heat map as one ONNX graph, model.onnx, and compare it with the network on real images."""
    try:
        from camlens.show.export.write import write
    except ModuleNotFoundError as error:
        raise CamlensError(f"export needs {error.name}; install it with: pip install 'camlens[onnx]'") from error
    classifier = load_model(model, model_option, weights, "cpu")
    for name in layer or ():
        if name not in ("layer3", classifier.layers[-1]):
            raise unknown("layer", name, ("layer3", classifier.layers[-1]), "an export")
    test, train = load_both(data, data_dir, skip_unreadable, classifier.input_size)
    path = out_folder(out) / "model.onnx"
    found = write(classifier, path, test, train, layer3="layer3" in (layer or ()), int8=int8)
    if as_json:
        print_json({"file": str(path), "bytes": path.stat().st_size, **found})
        return
    difference, correlation = found["largest_difference"], found["map_correlation"]
    say.print(
        f"on {found['images']:,} images the largest difference to the network is {difference['logits']:.2g} in a "
        f"logit, {difference['maps']:.2g} in a map"
    )
    if int8:
        before, after = (100 * found["accuracy"][key] for key in ("network", "file"))
        say.print(
            f"accuracy {after:.2f} % instead of {before:.2f} %; the maps of an image correlate by "
            f"{correlation['median']:.4f} (median), {correlation['5th percentile']:.4f} (5th percentile)"
        )
    made(path)


@command("env --json")
def env(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print versions, devices and where things are."""
    import platform
    from importlib.metadata import version

    import torch

    import camlens
    from camlens.data import cifar10
    from camlens.model.checkpoint import shipped

    answer = {
        "camlens": camlens.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in ("torch", "numpy", "Pillow", "matplotlib", "safetensors", "torchmetrics")},
        "threads": torch.get_num_threads(),
        "devices": devices(),
        "cifar10": str(cifar10.find(data_dir) or "not found"),
        "shipped": list(shipped()),
    }
    if as_json:
        print_json(answer)
        return
    for key, value in answer.items():
        say.print(f"{key:>13}  {', '.join(value) or 'none' if isinstance(value, list) else value}")


@command("demo --out out/demo")
def demo(
    data_dir: DataDir = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = Path("out/demo"),
    verbose: Annotated[bool, typer.Option("--verbose", help="Say all that kept it from CIFAR-10.")] = False,
) -> None:
    """The main job in one go: data, network, evaluation, errors, where the network looked, and the error report."""
    import torch

    from camlens.model.checkpoint import load, shipped
    from camlens.model.summary import summarise
    from camlens.show import draw
    from camlens.show.report import page
    from camlens.train.recipe import find_recipe
    from camlens.train.resume import resolve_settings
    from camlens.train.run_folder import RunFolder

    where, folder = pick_device(device), out_folder(out)
    source = "cifar10"
    try:
        if SHIPPED not in shipped():
            raise DataError(f"this version has no network trained on it ({SHIPPED})")
        train_images, test_images = (load_split(source, split, data_dir) for split in ("train", "test"))
        say.print(f"The data is CIFAR-10, the network the one that is shipped: {SHIPPED}.")
    except DataError as error:
        source, reason = "shapes", str(error) if verbose else str(error).splitlines()[0]
        more = "" if reason == str(error) else " (--verbose says why)"
        say.print(f"Not CIFAR-10: {reason.rstrip('.:')}{more}.")
        say.print("Instead the embedded data set 'shapes', and a network trained on it now, in a few minutes.")
        train_images, test_images = (load_split(source, split) for split in ("train", "test"))
    paths = [draw.overview([train_images, test_images], seed, folder)]
    if source == "cifar10":
        model = load(SHIPPED).to(where)
    else:
        run = RunFolder(folder / "run")
        recipe, resume = find_recipe("shapes"), run.holds_run()
        settings = resolve_settings(run, recipe, seed=seed, source=source, device=where, resume=resume)
        model, trained = train_into(settings, train_images)
        paths += trained
    write_text(folder / "summary.txt", summarise(model.network, (3, *model.input_size)).table(detail=True) + "\n")
    evaluations, reading = page.predicted([model], test_images)
    evaluation = evaluations[0]
    indices = evaluation.errors()
    paths += [folder / "summary.txt", *draw.evaluation(evaluation, folder)]
    facts = f"{min(12, len(indices))} of {len(indices):,} errors, {ORDERS['confidence']}."
    paths += draw.gallery(evaluation, indices[:12], facts, folder)
    say.print(evaluation.in_words())
    if len(train_images) > DEMO_KNOWS:  # the report looks for the causes of errors in them
        say.print(
            f"The report knows the first {DEMO_KNOWS:,} of the {len(train_images):,} training images, to be quick; "
            "`camlens report` takes all."
        )
        train_images = train_images.subset(torch.arange(DEMO_KNOWS))
    report = folder / "report.html"
    write_text(report, page.html(page.look_at(evaluations, reading, train_images, folder)))
    made(*paths, *folder.glob(page.FEATURES), report)
    say.print(f"Open the error report: {report.resolve().as_uri()}")


def distinct(stems: list[str]) -> list[str]:
    """The names, numbered where one is there already, also on systems that take a and A for the same."""
    taken: dict[str, str] = {}
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken[name.casefold()] = name
    return list(taken.values())


def made(*paths: str | Path) -> None:
    """List the files that a command made."""
    say.print("made " + "\n     ".join(map(str, paths)))


def print_json(answer: Any) -> None:
    """Print the answer for a script."""
    print(json.dumps(answer, indent=2))


def devices() -> list[str]:
    """The devices that this machine has, the fastest last."""
    import torch

    there = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    return [name for name, available in there.items() if available]


def pick_device(wanted: str) -> str:
    """The device called `wanted`. Raises `UsageError` where this machine has none."""
    if wanted == "auto":
        return devices()[-1]
    if wanted not in devices():
        raise unknown("device", wanted, ["auto", *devices()], "this machine")
    return wanted


def parse_shape(text: str) -> tuple[int, ...]:
    """ "3x32x32" as numbers."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--input {text}; expected channels x height x width, like 3x32x32")
    return tuple(map(int, parts))


def splits_of(source: str) -> list[str]:
    """The splits that the data has; for a folder, those that lie in it."""
    from camlens.data import sources

    return sources.splits_of(source)


def load_split(
    source: str,
    split: str,
    data_dir: Path | None = None,
    skip_unreadable: bool = False,
    size: Size = (64, 64),
) -> Dataset:
    """One split of the data; the pictures of a folder are resized to `size`."""
    from camlens.data import sources

    return sources.load_split(source, split, size, data_dir, skip_unreadable)


def load_both(source: str, data_dir: Path | None, skip_unreadable: bool, size: Size) -> tuple[Dataset, Dataset | None]:
    """The test images, and those to learn from, where the data has any."""
    test = load_split(source, "test", data_dir, skip_unreadable, size)
    learned = "train" in splits_of(source)
    return test, load_split(source, "train", data_dir, skip_unreadable, size) if learned else None


def load_model(argument: str | None, option: str | None, weights: Path | None, device: str) -> Classifier:
    """The classifier that was asked for, on its device."""
    from camlens.model.checkpoint import load

    if argument and option:
        raise UsageError(f"two models, {argument} and --model {option}; give one")
    where = pick_device(device)
    return load(argument or option or SHIPPED, weights).to(where)


def check_maps(model: Classifier, layers: list[str] | None, method: str) -> str:
    """Refuse an unknown layer or method before anything long begins; the method's own spelling."""
    import torch

    from camlens.maps.explain import explain

    blank = torch.zeros(1, 3, *model.input_size, device=model.device)
    return explain(model, blank, method, layer=layers or None).method


def train_into(settings: RunSettings, images: Dataset, **options: Any) -> tuple[Classifier, list[Path]]:
    """Train into the run folder and draw its curves, also when training is stopped; the network and the files made."""
    from camlens.show import figures
    from camlens.train.signals import Stopped
    from camlens.train.trainer import Trainer

    def draw() -> None:
        if trainer.processes.is_main and (rows := trainer.folder.read_metrics()):
            figures.curves(f"{settings.recipe.network} on {images.name}", rows).save(trainer.folder.curves)

    trainer = Trainer(settings, images, **options)
    try:
        model = trainer.fit()
    except Stopped as stopped:
        draw()
        stopped.args = (f"{stopped}; go on with: {same_command()}",)
        raise
    draw()
    return model, list(trainer.folder.files)


def same_command() -> str:
    """The command that was given, as it goes on with what it began."""
    from camlens.runtime.processes import is_torchrun

    words = ["camlens", *sys.argv[1:]]
    if "train" in words[:2] and "--resume" not in words:
        words.append("--resume")
    return ("torchrun … -m " if is_torchrun() else "") + shlex.join(words)
