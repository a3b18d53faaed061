"""What changes a network's mind: small edits of its errors, beside right images that are as close to another answer.

Errors lie near the boundary between two answers, so almost any small change turns many of them. What an edit has to do
with errors shows beside right images of the same margin: an error is turned when it becomes its label, a right image
when it becomes its runner-up.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch
from torch import Tensor

from camlens.analyse.edits import COPIES, LADDER, Edit, apply
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.statistics import holm, match, mcnemar_p_value, paired_difference
from camlens.model.classifier import Classifier
from camlens.model.preprocess import to_pixels
from camlens.progress import track
from camlens.runtime.predict import predict
from camlens.runtime.prediction_cache import NO_CACHE, PredictionCache, Rows

MAX_TRIED = 1000  # errors, and as many right images
BATCH = 64  # images edited at a time
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class EditRate:
    """How often an edit turns errors, and right images of the same margin.

    Attributes:
        name: Of the edit.
        errors: Fraction of the errors that become their label.
        matched: Fraction of the matched right images that become their runner-up.
        difference: `errors` less `matched`.
        interval: Its 95 % interval, of this edit alone (`paired_difference`).
        p_value: Of McNemar's test, adjusted for all edits of the ladder (`holm`).
    """

    name: str
    errors: float
    matched: float
    difference: float
    interval: tuple[float, float]
    p_value: float

    @property
    def is_reason(self) -> bool:
        """Whether it turns more errors than right images, beyond chance over the whole ladder."""
        return self.difference > 0 and self.p_value <= SIGNIFICANT


@dataclass(frozen=True)
class Trials:
    """The network's answers to n edits of T errors, and of right images matched on the margin.

    Attributes:
        edits: By name, the mildest first.
        tried: Places of the errors in the list, (T,) int64, rising.
        partners: The right image matched with each, (T,) int64; -1 for none, where there are too few.
        gap: Mean distance of the margins in a pair.
        changed: Where the prediction is another than before, (T, n) bool.
        corrected: Where it is the label, (T, n) bool.
        turned: Where the right image becomes its runner-up, (T, n) bool.
        label_probability: Probability of the label, (T, n).
        margins: Logit of the prediction before the edit, less that of the label, (T, n).
        rates: Of each edit over the pairs; empty without any.
        images: The errors tried and their partners, (I,) int64.
        copies: Their logits after each of the edits `COPIES`, (I, 5, K).
    """

    edits: Mapping[str, Edit]
    tried: Tensor
    partners: Tensor
    gap: float
    changed: Tensor
    corrected: Tensor
    turned: Tensor
    label_probability: Tensor
    margins: Tensor
    rates: list[EditRate]
    images: Tensor
    copies: Tensor

    @property
    def names(self) -> list[str]:
        """The names of the edits."""
        return list(self.edits)

    def rates_by_kind(self) -> list[EditRate]:
        """How often any edit of a kind turns an image: of those whose names begin with the same word."""
        kinds: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            kinds.setdefault(name.split()[0], []).append(number)
        names = [
            self.names[columns[0]] if len(columns) == 1 else f"{kind}, any of {len(columns)}"
            for kind, columns in kinds.items()
        ]
        any_of = (
            torch.stack([turns[:, columns].any(dim=1) for columns in kinds.values()], dim=1)
            for turns in self.of_pairs()
        )
        return compare(names, *any_of)

    def of_pairs(self) -> tuple[Tensor, Tensor]:
        """`corrected` and `turned` of the errors that have a partner."""
        paired = self.partners >= 0
        return self.corrected[paired], self.turned[paired]


def try_edits(
    evaluation: Evaluation,
    errors: Tensor,
    edits: Mapping[str, Edit],
    max_tried: int = MAX_TRIED,
    cache: PredictionCache = NO_CACHE,
) -> Trials:
    """Try edits on errors and on as many right images of the same margin.

    Args:
        evaluation: Of the data set.
        errors: (E,) the errors, at least one.
        edits: By name, the mildest first.
        max_tried: Errors tried at most; of more, every so many are, in the order of label and prediction.
        cache: Where the answers are kept, and the processes that share the images.
    """
    tried = sample_evenly(evaluation, errors, max_tried)
    errors, right = errors[tried], (~evaluation.wrong).nonzero()[:, 0]
    margins = probability_margins(evaluation)
    places = match(margins[errors], margins[right])
    partners = torch.where(places >= 0, right[places], -1) if len(right) else places
    paired = partners >= 0
    images = torch.cat([errors, partners[paired]])
    logits = predict_edited(evaluation, images, edits, cache, "edits")
    of_errors, of_partners = logits.split([len(errors), int(paired.sum())])
    labels, predictions = evaluation.labels[errors], evaluation.predictions[errors]
    runner_up = evaluation.logits[partners[paired]].topk(2, dim=1).indices[:, 1]
    corrected = of_errors.argmax(dim=2) == labels[:, None]
    turned = torch.zeros_like(corrected)
    turned[paired] = of_partners.argmax(dim=2) == runner_up[:, None]
    return Trials(
        edits=edits,
        tried=tried,
        partners=partners,
        gap=float((margins[errors] - margins[partners])[paired].abs().mean()) if paired.any() else 0.0,
        changed=of_errors.argmax(dim=2) != predictions[:, None],
        corrected=corrected,
        turned=turned,
        label_probability=of_class(evaluation.model.probabilities(of_errors), labels),
        margins=of_class(of_errors, predictions) - of_class(of_errors, labels),
        rates=compare(list(edits), corrected[paired], turned[paired]),
        images=images,
        copies=logits[:, [list(edits).index(name) for name in COPIES]],
    )


def sample_evenly(evaluation: Evaluation, errors: Tensor, count: int) -> Tensor:
    """Places of at most `count` errors, rising: evenly over the confusion matrix, cell by cell."""
    if len(errors) <= count:
        return torch.arange(len(errors))
    cells = evaluation.labels[errors] * len(evaluation.data.class_names) + evaluation.predictions[errors]
    chosen = torch.arange(count) * len(errors) // count
    return cells.argsort(stable=True)[chosen].sort().values


def probability_margins(evaluation: Evaluation) -> Tensor:
    """The difference of the two largest probabilities of each image, (N,), 0 to 1."""
    first, second = evaluation.probabilities.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def of_class(values: Tensor, classes: Tensor) -> Tensor:
    """The value of one class (T,) of each image, after each edit: (T, n, K) -> (T, n)."""
    return values.gather(2, classes[:, None, None].expand(-1, values.shape[1], 1))[:, :, 0]


def network_images(model: Classifier, images: Tensor) -> Tensor:
    """Images (B, C, H, W) uint8 of any size at the network's, as it is shown them (`Classifier.prepare`)."""
    return images if tuple(images.shape[2:]) == model.input_size else to_pixels(images, model.geometry)


def predict_edited(
    evaluation: Evaluation,
    indices: Tensor,
    edits: Mapping[str, Edit],
    cache: PredictionCache = NO_CACHE,
    name: str = "",
) -> Tensor:
    """The logits of images of the data set after each of n edits.

    Args:
        evaluation: Of the data set.
        indices: The images, (I,) int64.
        edits: By name.
        cache: Where the logits are kept, and the processes that share the images. What the user's own edits do is kept
            nowhere: nothing tells whether they are still the same.
        name: Of the file in `parts`.

    Returns:
        (I, n, K).
    """
    model, processes = evaluation.model, cache.processes

    def compute(blocks: Sequence[Tensor]) -> Generator[Rows, None, None]:
        for block in track(blocks, "trying small edits", shown=processes.is_main):
            images = network_images(model, evaluation.data.images(indices[block]))
            edited = (apply(name, edit, images) for name, edit in edits.items())
            logits = predict(model, edited).logits
            yield {"logits": logits.view(len(edits), len(block), -1).transpose(0, 1)}

    if not edits.items() <= LADDER.items():
        cache = replace(cache, folder=None)
    key = hashlib.sha256(repr((version("camlens"), list(edits), indices.tolist())).encode()).hexdigest()
    what = "images with small edits"
    rows = cache.rows(f"parts/{name}.safetensors", key, len(indices), BATCH, what, compute) or {}
    return processes.call_on_main(lambda: rows["logits"].clone())  # noqa: PLW0108 - other processes have no rows


def compare(names: list[str], corrected: Tensor, turned: Tensor) -> list[EditRate]:
    """The rates of n edits over P pairs of an error and a right image, (P, n) bool each; none without pairs."""
    if not len(corrected):
        return []
    pairs = list(zip(corrected.T, turned.T, strict=True))
    p_values = holm([mcnemar_p_value(int((a & ~b).sum()), int((~a & b).sum())) for a, b in pairs])
    return [
        EditRate(name, float(a.double().mean()), float(b.double().mean()), *paired_difference(a, b), p_value)
        for name, (a, b), p_value in zip(names, pairs, p_values, strict=True)
    ]
