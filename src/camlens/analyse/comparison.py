"""Two models on the same images: whether they can be compared, and what differs, in words."""

import logging
from copy import copy

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.statistics import mcnemar_p_value, p_value_in_words
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.errors import DataError
from camlens.model.align import align
from camlens.model.classifier import Classifier

log = logging.getLogger("camlens")


def comparable(model: Classifier, second: Classifier, data: Dataset) -> tuple[Classifier, Classifier]:
    """Two models with different names, the second one with the classes of the data.

    Raises:
        DataError: The second model has other classes than the first.
    """
    if not second.has_names:
        second = align(second, data)[0]
    if second.class_names != model.class_names:
        raise DataError(
            f"{second.name} does not have the classes of {model.name} in the same order; compare two models that do"
        )
    if second.name == model.name:
        model, second = copy(model), copy(second)
        model.name, second.name = f"{model.name} (first)", f"{second.name} (second)"
    is_prepared = isinstance(data, InMemoryDataset) and data.originals is None and data.geometry is not None
    if is_prepared and second.geometry != model.geometry:
        log.warning(f"the data hold no pictures: {second.name} gets the images for {model.name}, resized")
    return model, second


def compare_models(first: Evaluation, second: Evaluation) -> list[str]:
    """What the second model corrects and breaks, whether that is significant, and the classes that change most."""
    fixed, broken = int((first.wrong & ~second.wrong).sum()), int((~first.wrong & second.wrong).sum())
    both = int((first.wrong & second.wrong).sum())
    names = first.data.class_names
    gained = second.confusion.diag() - first.confusion.diag()
    best, worst = int(gained.argmax()), int(gained.argmin())
    return [
        f"{second.model.name} corrects {fixed:,} errors of {first.model.name} and breaks {broken:,} of its correct "
        f"predictions; {both:,} images are errors of both.",
        "p-value of these two numbers by McNemar's test (hypothesis: neither model is better): "
        f"{p_value_in_words(mcnemar_p_value(fixed, broken))}.",
        f"Change in correct images by class: largest for {names[best]} ({int(gained[best]):+d}), smallest for "
        f"{names[worst]} ({int(gained[worst]):+d}).",
    ]
