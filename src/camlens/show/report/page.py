"""Everything the page of an error report shows, gathered and written into one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from camlens.analyse.evaluation import Evaluation, evaluate, mcnemar, wilson
from camlens.analyse.evidence import NoFeatures, Reading, find, fingerprint, read, read_once
from camlens.analyse.triage import Signs, examine, reliability, some_right
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.pictures import resize, resize_picture, upright_rgb
from camlens.errors import DataError
from camlens.files import out_folder, write_text
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier
from camlens.progress import Work, track
from camlens.show.report.assets import script, style_sheet, template

ALL = 10  # classes, up to which the maps of all of them travel with an error
MOST = 8  # with more classes: those of the most probable, and of the label
SIDE = 160  # pixels, to which larger pictures are made smaller
THUMB = 48
MARK = '<script type="application/json" id="facts">'
PER_SHEET = 256  # pictures on one sheet of them
METHOD = "hirescam"
FEATURES = "features.safetensors"  # those of the training images


def report(
    model: Classifier,
    data: Dataset | Iterable[tuple[Any, int]],
    out: str | Path = "report.html",
    train: Dataset | Iterable[tuple[Any, int]] | None = None,
    second: Classifier | None = None,
) -> Path:
    """Write the error report of a classifier as one HTML file; its path.

    data: a data set, or pairs of an image and the number of its class; an image is a PIL picture, a uint8 tensor
        (3, H, W) or, as floats, what the network takes
    train: the images it learned from, likewise; without them the page shows no evidence from training
    second: another classifier of the same classes: then the page shows what it fixed, and what it broke

    Raises `DataError` for labels or images that do not fit the network.
    """
    path = Path(out)
    out_folder(path.parent)
    learned = None if train is None else as_set(model, train, "train")
    test = as_set(model, data, "test", keep_originals=second is not None)
    return write([model] if second is None else [model, second], test, learned, path)


def write(models: Sequence[Classifier], test: Dataset, train: Dataset | None, path: Path, batch: int = 250) -> Path:
    """Write the error report of one model or of two to `path`."""
    write_text(path, html(look(models, test, train, path.parent, batch)))
    return path


def look(models: Sequence[Classifier], test: Dataset, train: Dataset | None, kept: Path, batch: int) -> dict[str, Any]:
    """What the page shows of one model or of two.

    kept: a folder, where the features of the training images are kept for the next time
    """
    return look_at(*predicted(models, test, batch), train, kept, batch)


def predicted(models: Sequence[Classifier], test: Dataset, batch: int = 250) -> tuple[list[Evaluation], Reading | None]:
    """What the models say of the test images, and the features that the first one has of them."""
    first = models[0]
    test = first.match(test)
    for other in models[1:]:
        if other.class_names != first.class_names:
            raise DataError(f"{other.name} has not the classes of {first.name}, in their order; compare two that have")
    data = [test, *(test.resized(model.input_size) for model in models[1:])]
    readings = [read_if_possible(model, images, batch) for model, images in zip(models, data, strict=True)]
    evaluations = [
        evaluate(model, images, batch) if reading is None else Evaluation(model, images, reading.logits)
        for model, images, reading in zip(models, data, readings, strict=True)
    ]
    if len(models) == 2 and evaluations[1].data.class_names != test.class_names:
        raise DataError(
            f"{models[1].name} has the classes of {first.name} in another order; a report compares the same"
        )
    return evaluations, readings[0]


def look_at(
    evaluations: Sequence[Evaluation], reading: Reading | None, train: Dataset | None, kept: Path, batch: int = 250
) -> dict[str, Any]:
    """As `look`, from what the models say of the test images."""
    first, learned = evaluations[0], None
    if reading and train is not None and bool(first.wrong.any()):
        train = first.model.match(train)
        learned = read_once(first.model, train, kept / FEATURES, batch)
    return gather(evaluations, reading, train, learned)


def read_if_possible(model: Classifier, data: Dataset, batch: int) -> Reading | None:
    """What the network makes of the images; None where it has no features."""
    try:
        return read(model, data, batch)
    except NoFeatures:
        return None


def as_set(
    model: Classifier, data: Dataset | Iterable[tuple[Any, int]], split: str, keep_originals: bool = False
) -> Dataset:
    """The images as a data set of the model's classes, at its input size.

    keep_originals: whether to keep the images as they came too, for a model with another input size
    """
    if isinstance(data, Dataset):
        return data
    pixels, labels, originals = [], [], []
    for number, (image, label) in enumerate(data):
        picture = as_picture(model, image)
        if not 0 <= int(label) < len(model.class_names):
            raise DataError(
                f"image {number} has the label {label}; expected 0 to {len(model.class_names) - 1}, "
                f"the classes of {model.name}"
            )
        pixels.append(torch.from_numpy(np.array(resize_picture(picture, model.input_size))).permute(2, 0, 1))
        labels.append(int(label))
        if keep_originals:
            originals.append(picture)
    if not labels:
        raise DataError("the data have no images")
    height, width = model.input_size
    return InMemoryDataset(
        name="data",
        split=split,
        class_names=model.class_names,
        pixels=torch.stack(pixels),
        labels=torch.tensor(labels),
        files=tuple(f"{split} image {number}" for number in range(len(labels))),
        original_size=f"{height}x{width}",
        originals=originals or None,
    )


def as_picture(model: Classifier, image: Image.Image | Tensor) -> Image.Image:
    """A picture in RGB, of a picture, uint8 (3, H, W), or, as floats (3, H, W), what the network takes."""
    if not isinstance(image, Tensor):
        return upright_rgb(image)
    if image.is_floating_point():
        image = model.denormalise(image[None].to(model.device))[0]
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def gather(
    evaluations: Sequence[Evaluation], reading: Reading | None, train: Dataset | None, learned: Reading | None
) -> dict[str, Any]:
    """What the page shows, ready for JSON.

    The images are those that a model has wrong, first those of the first one; all lists of images are in this order.
    reading, learned: what the first model makes of the images and of those of `train`
    """
    first, data = evaluations[0], evaluations[0].data
    wrong = [evaluation.errors("confidence") for evaluation in evaluations]
    images = torch.cat([wrong[0], *(other[~torch.isin(other, wrong[0])] for other in wrong[1:])])
    classes = [shown_classes(evaluation, images) for evaluation in evaluations]
    maps = [maps_of(evaluation, images, shown) for evaluation, shown in zip(evaluations, classes, strict=True)]
    facts = {
        **identity(first.model, data, train),
        "data": {"name": data.name, "split": data.split, "n": len(data), "size": data.original_size},
        "names": list(data.class_names),
        "images": {
            "index": images.tolist(),
            "file": [data.files[index] for index in images.tolist()],
            "label": data.labels[images].tolist(),
        },
        "models": [side(e, images, c, m) for e, c, m in zip(evaluations, classes, maps, strict=True)],
        "pictures": sheets(data.batches(PER_SHEET, images), len(images), SIDE),
        "side": list(data.size),
        "evidence": None,
        "verdicts": None,
        "plane": None if reading is None else plane(reading, first),
    }
    signs = None
    if reading is not None and train is not None and learned is not None:
        with Work("looking for the training images behind the errors"):
            evidence = find(reading[wrong[0]], data.labels[wrong[0]], learned, train.labels)
        signs = signs_of(first, maps[0], classes[0], reading, learned, train)
        lists = {"nearest": evidence.nearest, "towards": evidence.towards, "away": evidence.away}
        facts["evidence"] = shown_evidence(lists, evidence.scores, train)
        facts["verdicts"] = shown_verdicts(signs)
    facts["findings"] = findings(first, signs) if len(evaluations) == 1 else differences(*evaluations)
    return facts


def identity(model: Classifier, data: Dataset, train: Dataset | None) -> dict[str, Any]:
    """What the page is of."""
    learned = None if train is None else fingerprint(model, model.match(train))[:16]
    return {"id": fingerprint(model, data)[:16], "learned": learned, "camlens": version("camlens")}


def signs_of(
    evaluation: Evaluation,
    maps: dict[str, Tensor],
    classes: Tensor,
    reading: Reading,
    learned: Reading,
    train: Dataset,
) -> Signs:
    """The signs of a model's errors, the first of the images of `maps` and `classes`, at the last layer but one."""
    errors, right, layer = evaluation.errors("confidence"), some_right(evaluation), next(iter(maps))
    of_errors, predicted = maps[layer][: len(errors)], evaluation.predictions[errors][:, None]
    own = of_errors[torch.arange(len(errors)), (classes[: len(errors)] == predicted).int().argmax(dim=1)]
    few = right[::2]
    usual = maps_of(evaluation, few, shown_classes(evaluation, few)).get(layer, of_errors[:0])
    return examine(evaluation, errors, right, (of_errors, usual), own, reading, learned, train)


def shown_verdicts(signs: Signs) -> dict[str, Any]:
    """The verdict on each error with its reason, how often each kind was right, and the rank by doubt in the label."""
    return {
        "of": signs.verdicts(),
        "why": signs.reasons(),
        "doubt": rounded(signs.doubt(), 4),
        "reliability": reliability(),
    }


def side(evaluation: Evaluation, images: Tensor, classes: Tensor, maps: dict[str, Tensor]) -> dict[str, Any]:
    """How good one model is altogether, and what it makes of the images."""
    model, metrics = evaluation.model, evaluation.metrics()
    return {
        "name": model.name,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "input": "×".join(map(str, model.input_size)),
        **{key: metrics[key] for key in ("accuracy", "interval", "ece", "errors", "reliability")},
        "right": evaluation.confusion.diag().tolist(),
        "perClass": [[k, *of_class.values()] for k, of_class in enumerate(metrics["per_class"].values())],
        **opinion(evaluation, images, classes, maps),
    }


def opinion(evaluation: Evaluation, images: Tensor, classes: Tensor, maps: dict[str, Tensor]) -> dict[str, Any]:
    """What one model makes of the images, and the maps behind it."""
    labels = evaluation.labels[images]
    logits = evaluation.logits[images].gather(1, classes)
    last = maps[list(maps)[-1]] if maps else torch.zeros(0, classes.shape[1], 1, 1)
    rest = logits - last.sum(dim=(2, 3))  # what a class has besides the cells of its map
    return {
        "prediction": evaluation.predictions[images].tolist(),
        "classes": classes.tolist(),
        "probability": rounded(evaluation.probabilities[images].gather(1, classes), 4),
        "logit": rounded(logits, 4),
        "rest": rounded(rest, 4),
        "exact": same_for_all_images(rest, classes),  # then it is the bias
        "loss": rounded(-evaluation.logits[images].log_softmax(1).gather(1, labels[:, None])[:, 0], 3),
        "layers": [packed(name, of_layer, last=name == list(maps)[-1]) for name, of_layer in maps.items()],
    }


def same_for_all_images(rest: Tensor, classes: Tensor) -> bool:
    """Whether each class has the same rest, (E, n), with every image."""
    kinds, place = classes.flatten().unique(return_inverse=True)
    low = torch.full((len(kinds),), torch.inf).scatter_reduce(0, place, rest.flatten(), "amin")
    high = torch.full((len(kinds),), -torch.inf).scatter_reduce(0, place, rest.flatten(), "amax")
    return len(kinds) > 0 and bool((high - low).max() < 1e-3)


def rounded(values: Tensor, digits: int) -> Any:
    """As lists, with so many digits behind the point."""
    return np.round(values.double().numpy(), digits).tolist()


def shown_classes(evaluation: Evaluation, images: Tensor) -> Tensor:
    """The classes whose maps travel, (N, n), the most probable first; among them always the label."""
    order = evaluation.logits[images].argsort(dim=1, descending=True)
    if order.shape[1] <= ALL:
        return order
    label = evaluation.labels[images][:, None]
    place = (order == label).int().argmax(dim=1, keepdim=True)
    kept = order[:, :MOST].clone()
    kept[:, -1:] = torch.where(place < MOST, kept[:, -1:], label)
    return kept


def maps_of(
    evaluation: Evaluation,
    images: Tensor,
    classes: Tensor,
    layers: Sequence[str] | None = None,
    method: str = METHOD,
    batch: int = 128,
) -> dict[str, Tensor]:
    """Raw maps for these classes, {layer: (N, n, h, w)}; empty for no images.

    layers: by default the model's last two
    """
    model, data = evaluation.model, evaluation.data
    layers = list(layers or model.layers[-2:])
    parts: list[dict[str, Tensor]] = []
    both = list(zip(images.split(batch), classes.split(batch), strict=True)) if len(images) else []
    for rows, chosen in track(both, "explaining the errors"):
        found = explain(model, model.prepare(data.images(rows)), method, layers, chosen).maps
        assert isinstance(found, dict)
        parts.append({layer: maps.cpu() for layer, maps in found.items()})
    return {k: torch.cat([part[k] for part in parts]) for k in layers} if parts else {}


def packed(layer: str, maps: Tensor, last: bool) -> dict[str, Any]:
    """Maps (E, n, h, w) as whole numbers: value = number * scale of its error."""
    top = 32767 if last else 127  # those that are added up need more
    scale = maps.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / top
    whole = (maps / scale[:, None, None, None]).round().numpy().astype("<i2" if last else "i1")
    return {
        "name": layer,
        "grid": list(maps.shape[2:]),
        "bytes": 2 if last else 1,
        "scale": [float(f"{value:.6g}") for value in scale.tolist()],
        "data": base64.b64encode(whole.tobytes()).decode(),
    }


def sheets(batches: Iterable[Tensor], count: int, side: int, lossless_up_to: int = 64) -> dict[str, Any]:
    """Pictures side by side on large ones, as data URIs; larger ones than `side` are made smaller.

    batches: `count` pictures, (B, 3, H, W) uint8, `PER_SHEET` in each batch but the last
    """
    columns, size, found = max(1, min(16, count)), (1, 1), []
    for part in batches:
        height, width = (int(n) for n in part.shape[-2:])
        shrunk = min(1.0, side / max(height, width))
        size = max(1, round(height * shrunk)), max(1, round(width * shrunk))
        if len(part) == 0:
            continue
        rows = -(-len(part) // columns)
        canvas = np.zeros((rows, columns, *size, 3), np.uint8)
        canvas.reshape(-1, *size, 3)[: len(part)] = resize(part, size).permute(0, 2, 3, 1).numpy()
        picture = Image.fromarray(canvas.transpose(0, 2, 1, 3, 4).reshape(rows * size[0], columns * size[1], 3))
        file = io.BytesIO()
        sharp = max(size) <= lossless_up_to
        picture.save(file, "WEBP", lossless=sharp, quality=60 if sharp else 72, method=2 if sharp else 4)
        found.append(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")
    return {"count": count, "columns": columns, "per": PER_SHEET, "size": list(size), "sheets": found}


def shown_evidence(kinds: dict[str, Tensor], scores: dict[str, Tensor], train: Dataset) -> dict[str, Any]:
    """The lists of training images (E, n) of each kind, with each of these once as a small picture."""
    used = torch.cat([lists.flatten() for lists in kinds.values()]).unique()
    used = used[used >= 0]
    place = {index: number for number, index in enumerate(used.tolist())}
    place[-1] = -1
    return {
        "index": used.tolist(),
        "file": [train.files[index] for index in used.tolist()],
        "label": train.labels[used].tolist(),
        "pictures": sheets(train.batches(PER_SHEET, used), len(used), THUMB, lossless_up_to=0),
        "lists": {kind: [[place[index] for index in row] for row in lists.tolist()] for kind, lists in kinds.items()},
        "scores": {kind: rounded(of_kind, 3) for kind, of_kind in scores.items()},
    }


def plane(reading: Reading, evaluation: Evaluation) -> dict[str, Any]:
    """The two first principal components of the features of all images, as bytes across and upwards."""
    centred = reading.features - reading.features.mean(dim=0)
    _, spread, axes = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=4)
    points = centred @ axes[:, :2]
    points = points * points.pow(3).mean(dim=0).sign()  # the sign of an axis is arbitrary: its long tail points up
    low, high = points.amin(dim=0), points.amax(dim=0)
    whole = ((points - low) / (high - low).clamp(min=1e-12) * 65535).round().numpy().astype("<u2")
    share = spread[:2].pow(2).sum() / centred.pow(2).sum().clamp(min=1e-12)
    return {
        "points": base64.b64encode(whole.tobytes()).decode(),
        "label": base64.b64encode(evaluation.labels.numpy().astype("<u2").tobytes()).decode(),
        "share": float(share),
    }


def findings(evaluation: Evaluation, signs: Signs | None) -> list[str]:
    """The three main findings, in words; what the verdicts say of all errors takes the place of the last one."""
    wrong, names = evaluation.wrong, evaluation.data.class_names
    count = int(wrong.sum())
    if not count:
        return [f"All {len(wrong):,} images are right."]
    confusion = evaluation.confusion.clone().fill_diagonal_(0)
    label, prediction = divmod(int(confusion.argmax()), len(names))
    errors = f"{count:,} error{'s' * (count != 1)}"
    share = f"{int(confusion[label, prediction])} of {errors}"
    back = int(confusion[prediction, label])
    found = [
        f"{names[label]} called {names[prediction]} is the commonest error: {share}; the reverse happens "
        f"{back} time{'s' * (back != 1)}."
    ]
    sure = wrong & (evaluation.confidences > 0.8)
    ranks = evaluation.logits.argsort(dim=1, descending=True)
    second = int((ranks[wrong, 1] == evaluation.labels[wrong]).sum())
    found.append(
        f"The network was more than 80 % sure in {int(sure.sum()):,} of its {errors}; in {second:,} of them "
        f"all, the label came second."
    )
    if signs is not None:
        verdicts = Counter(signs.verdicts())
        none = verdicts.pop(None, 0)
        listed = [f"{n:,} {verdict}" for verdict, n in verdicts.most_common()] + ([f"none on {none:,}"] if none else [])
        found.append(f"The verdicts: {', '.join(listed)}.")
        return found
    of_class = evaluation.confusion.sum(dim=1)
    right = evaluation.confusion.diag() / of_class.clamp(min=1)
    there = (of_class > 0).nonzero()[:, 0]
    hardest, easiest = there[right[there].argmin()], there[right[there].argmax()]
    low, high = wilson(int(evaluation.confusion[hardest, hardest]), int(of_class[hardest]))
    found.append(
        f"{names[hardest]} is the hardest class: {100 * float(right[hardest]):.1f} % right (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}), against {100 * float(right[easiest]):.1f} % of {names[easiest]}."
    )
    return found


def differences(first: Evaluation, second: Evaluation) -> list[str]:
    """What the second model fixed and broke, in words."""
    fixed, broken = int((first.wrong & ~second.wrong).sum()), int((~first.wrong & second.wrong).sum())
    both = int((first.wrong & second.wrong).sum())
    chance = mcnemar(fixed, broken)
    names = first.data.class_names
    gained = second.confusion.diag() - first.confusion.diag()
    best, worst = int(gained.argmax()), int(gained.argmin())
    return [
        f"{second.model.name} fixed {fixed:,} errors of {first.model.name} and broke {broken:,} images that were "
        f"right; {both:,} are wrong by both.",
        "McNemar's test: if neither were better, fixed and broken would differ this much with probability "
        + (f"{chance:.2g}." if chance >= 1e-4 else "below 0.0001."),
        f"{names[best]} gained most, {int(gained[best]):+d} images right; {names[worst]} least, "
        f"{int(gained[worst]):+d}.",
    ]


def policy(live: bool) -> str:
    """The page's Content-Security-Policy: its own style and script, by their hashes, and no request.

    live: none but to where it came from
    """
    style, code = (
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style_sheet(), script())
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{code}'; img-src data: blob:; "
        f"connect-src {'self' if live else 'none'!r}; base-uri 'none'; form-action 'none'"
    )


def html(facts: dict[str, Any]) -> str:
    """The page. What comes from outside, names and files, is in its JSON alone, where no tag can begin."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    names = [model["name"] for model in facts["models"]]
    data = facts["data"]["name"]
    title = f"What {names[0]} gets wrong on {data}" if len(names) == 1 else f"{' and '.join(names)} on {data}"
    page = Environment(autoescape=True).from_string(template())
    parts = {"facts": Markup(text), "style_sheet": Markup(style_sheet()), "script": Markup(script())}
    return page.render(title=title, split=facts["data"]["split"], policy=policy("live" in facts), **parts)


def facts_in(path: Path) -> dict[str, Any]:
    """What a page shows, read from its file; empty where that is none."""
    try:
        text = path.read_text(encoding="utf-8")
        facts: dict[str, Any] = json.loads(text.split(MARK, 1)[1].split("</script>", 1)[0])
    except (OSError, ValueError, IndexError):
        return {}
    return facts
