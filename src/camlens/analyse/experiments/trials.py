"""Which small edits correct errors more often than they change correct images with the same probability margin.

Errors are close to the decision boundary, so almost any small change corrects many of them. Therefore each error is
matched with a correct image whose two largest probabilities differ by as much. An edit corrects an error if the
prediction becomes the label, and changes a correct image if the prediction becomes the runner-up.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from camlens.analyse.edits import COPIES, EDITS, Edit, apply
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.statistics import holm, match, mcnemar_p_value, paired_difference
from camlens.progress import track
from camlens.runtime.predict import predict
from camlens.runtime.prediction_cache import PredictionCache, Rows, key_of

MAX_TRIED = 1000  # errors, and as many correct images
BATCH = 64  # images edited at a time
SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class EditRate:
    """How often an edit corrects errors, and changes correct images with the same probability margin.

    Attributes:
        name: Of the edit.
        errors: Fraction of the errors that it corrects.
        matched: Fraction of the matched correct images that it changes.
        difference: `errors` minus `matched`.
        interval: Its 95 % interval, for this edit alone (`paired_difference`).
        p_value: Of McNemar's test, adjusted for all edits (`holm`).
    """

    name: str
    errors: float
    matched: float
    difference: float
    interval: tuple[float, float]
    p_value: float

    @property
    def is_reason(self) -> bool:
        """Whether it corrects significantly more errors than it changes correct images."""
        return self.difference > 0 and self.p_value <= SIGNIFICANCE_LEVEL


@dataclass(frozen=True)
class Trials:
    """The network's predictions for T errors, and for matched correct images, after each of n edits.

    Attributes:
        edits: By name, the mildest first.
        tried: Positions of these errors in the list of errors, (T,) int64, increasing.
        partners: Index of the correct image matched with each, (T,) int64; -1 for none, if there are too few.
        gap: Mean difference of the probability margins in a pair.
        changed: Whether the edit changes the prediction of the error, (T, n) bool.
        corrected: Whether the prediction becomes the label, (T, n) bool.
        partner_changed: Whether the prediction of the partner becomes its runner-up, (T, n) bool.
        label_probability: Probability of the error's label after the edit, (T, n).
        logit_margins: After the edit, the logit of the original prediction minus that of the label, (T, n).
        rates: Of each edit over the pairs; empty without pairs.
        images: Indices of the errors tried and of their partners, (I,) int64.
        copies: Their logits after each of the edits `COPIES`, (I, 5, K).
    """

    edits: Mapping[str, Edit]
    tried: Tensor
    partners: Tensor
    gap: float
    changed: Tensor
    corrected: Tensor
    partner_changed: Tensor
    label_probability: Tensor
    logit_margins: Tensor
    rates: list[EditRate]
    images: Tensor
    copies: Tensor

    @property
    def names(self) -> list[str]:
        """The names of the edits."""
        return list(self.edits)

    def rates_by_kind(self) -> list[EditRate]:
        """How often any edit of a kind has an effect; the names of a kind begin with the same word."""
        kinds: dict[str, list[int]] = {}
        for column, name in enumerate(self.names):
            kinds.setdefault(name.split()[0], []).append(column)
        names = [
            self.names[columns[0]] if len(columns) == 1 else f"{kind}, any of {len(columns)}"
            for kind, columns in kinds.items()
        ]
        corrected, changed = (
            torch.stack([by_edit[:, columns].any(dim=1) for columns in kinds.values()], dim=1)
            for by_edit in self.of_pairs()
        )
        return compare(names, corrected, changed)

    def of_pairs(self) -> tuple[Tensor, Tensor]:
        """`corrected` and `partner_changed` of the errors that have a partner, (P, n) bool each."""
        paired = self.partners >= 0
        return self.corrected[paired], self.partner_changed[paired]


def try_edits(
    evaluation: Evaluation, errors: Tensor, edits: Mapping[str, Edit], max_tried: int, cache: PredictionCache
) -> Trials:
    """Try edits on errors and on as many correct images with the same probability margin.

    Args:
        evaluation: Of the data set.
        errors: (E,) the errors, at least one.
        edits: By name, the mildest first.
        max_tried: Number of errors that are tried, at most (`sample_evenly`).
        cache: Where the predictions are kept, and the processes that share the images.
    """
    tried = sample_evenly(evaluation, errors, max_tried)
    errors, correct = errors[tried], (~evaluation.wrong).nonzero()[:, 0]
    margins = evaluation.probability_margins
    matches = match(margins[errors], margins[correct])
    partners = torch.where(matches >= 0, correct[matches], -1) if len(correct) else matches
    paired = partners >= 0
    images = torch.cat([errors, partners[paired]])
    logits = predict_edited(evaluation, images, edits, cache, "edits")
    of_errors, of_partners = logits.split([len(errors), int(paired.sum())])
    labels, predictions = evaluation.labels[errors], evaluation.predictions[errors]
    runner_up = evaluation.logits[partners[paired]].topk(2, dim=1).indices[:, 1]
    corrected = of_errors.argmax(dim=2) == labels[:, None]
    partner_changed = torch.zeros_like(corrected)
    partner_changed[paired] = of_partners.argmax(dim=2) == runner_up[:, None]
    return Trials(
        edits=edits,
        tried=tried,
        partners=partners,
        gap=float((margins[errors] - margins[partners])[paired].abs().mean()) if paired.any() else 0.0,
        changed=of_errors.argmax(dim=2) != predictions[:, None],
        corrected=corrected,
        partner_changed=partner_changed,
        label_probability=of_class(evaluation.model.probabilities(of_errors), labels),
        logit_margins=of_class(of_errors, predictions) - of_class(of_errors, labels),
        rates=compare(list(edits), corrected[paired], partner_changed[paired]),
        images=images,
        copies=logits[:, [list(edits).index(name) for name in COPIES]],
    )


def sample_evenly(evaluation: Evaluation, errors: Tensor, count: int) -> Tensor:
    """Positions of at most `count` errors, increasing: every n-th in the order of the cells of the confusion matrix."""
    if len(errors) <= count:
        return torch.arange(len(errors))
    cells = evaluation.labels[errors] * len(evaluation.data.class_names) + evaluation.predictions[errors]
    ranks = torch.arange(count) * len(errors) // count
    return cells.argsort(stable=True)[ranks].sort().values


def of_class(values: Tensor, classes: Tensor) -> Tensor:
    """Select one class (T,) for each image: (T, n, K) -> (T, n)."""
    return values.gather(2, classes[:, None, None].expand(-1, values.shape[1], 1))[:, :, 0]


def predict_edited(
    evaluation: Evaluation, indices: Tensor, edits: Mapping[str, Edit], cache: PredictionCache, name: str
) -> Tensor:
    """The logits of images of the data set after each of n edits.

    Args:
        evaluation: Of the data set.
        indices: The images, (I,) int64.
        edits: By name.
        cache: Where the logits are kept, and the processes that share the images. With the user's own edits nothing is
            kept, because it is unknown whether these functions have changed.
        name: Of the file in the folder `parts`.

    Returns:
        (I, n, K).
    """
    model, processes = evaluation.model, cache.processes

    def compute(blocks: Sequence[Tensor]) -> Generator[Rows, None, None]:
        for block in track(blocks, "trying small edits", shown=processes.is_main):
            images = evaluation.input_images(indices[block])
            edited = (apply(name, edit, images) for name, edit in edits.items())
            logits = predict(model, edited).logits
            yield {"logits": logits.view(len(edits), len(block), -1).transpose(0, 1)}

    if not edits.items() <= EDITS.items():
        cache = replace(cache, folder=None)
    key = key_of(list(edits), indices.tolist())
    description = "images with small edits"
    rows = cache.rows(f"parts/{name}.safetensors", key, len(indices), BATCH, description, compute)
    return processes.call_on_main(lambda: rows["logits"].clone())  # noqa: PLW0108 - only the main process has rows


def compare(names: list[str], corrected: Tensor, partner_changed: Tensor) -> list[EditRate]:
    """The rates of n edits over P pairs.

    Args:
        names: Of the edits.
        corrected: Whether the edit corrects the error of the pair, (P, n) bool.
        partner_changed: Whether it changes the correct image, (P, n) bool.

    Returns:
        Empty without pairs.
    """
    if not len(corrected):
        return []
    pairs = list(zip(corrected.T, partner_changed.T, strict=True))
    p_values = holm([mcnemar_p_value(int((a & ~b).sum()), int((~a & b).sum())) for a, b in pairs])
    return [
        EditRate(name, float(a.double().mean()), float(b.double().mean()), *paired_difference(a, b), p_value)
        for name, (a, b), p_value in zip(names, pairs, p_values, strict=True)
    ]
