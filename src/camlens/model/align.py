"""The same classes in the same order for a classifier and a data set, also if the network has no class names."""

import logging
from collections.abc import Sequence
from copy import copy

from camlens.data.dataset import Dataset, DatasetT, are_numbers, duplicates
from camlens.errors import DataError
from camlens.model.class_names import first_names
from camlens.model.classifier import Classifier

log = logging.getLogger("camlens")
SORTED, NUMERIC = "sorted", "numeric"
HOW = "give --class-order FILE, with the name of one output per line, or a camlens.Classifier with class_names"


def align(
    model: Classifier, data: DatasetT, class_order: str | Sequence[str] | None = None
) -> tuple[Classifier, DatasetT]:
    """Give a classifier and a data set the same class names in the same order, without changing either.

    A classifier without class names, or whose classes are only numbered, takes those of the data set. Otherwise the
    data set takes the classes of the classifier; it need not have images of all of them. A warning says what is
    assumed.

    Args:
        model: The classifier.
        data: The data set.
        class_order: Which output is which class: "sorted" (the names of the data as strings), "numeric" (as numbers) or
            K names; None to take the classifier's own names or else the order of the data set.

    Returns:
        The classifier, or a copy around the same network with other class names; the data set, or a view of the same
        images with other class names.

    Raises:
        DataError: The data set has classes that the classifier does not know, or which is which is unknown.
    """
    data = data.prepared(model.geometry)
    if data.class_names == model.class_names and model.has_names and class_order is None:
        return model, data
    present, numbers = data.present_classes(), tuple(map(str, range(len(model.class_names))))
    numbered = model.class_names == numbers
    if class_order is not None and model.has_names and set(present).isdisjoint({*model.class_names, *numbers}):
        data = data.with_class_order(order_classes(model, data, class_order)).with_class_names(model.class_names)
    elif class_order is not None or not model.has_names or (numbered and not set(present) <= set(numbers)):
        model = _named_after(model, data, class_order)
    elif numbered and present != (numeric := tuple(sorted(present, key=int))):
        log.warning(
            f"{model.name} names its classes {first_names(numbers)}: those of {data.name} are matched by name, in the "
            f"order {first_names(numeric)}; --class-order sorted takes {first_names(sorted(present))}, as "
            "torchvision's ImageFolder does"
        )
    elif set(present) <= set(numbers) - set(model.class_names):
        names = tuple(model.class_names[int(name)] for name in present)
        log.warning(f"{data.name} numbers its classes: {first_names([*map('{} is {}'.format, present, names)])}")
        data = data.with_class_order(present).with_class_names(names)
    if strange := [name for name in data.present_classes() if name not in model.class_names]:
        raise DataError(
            f"{model.name} knows {len(model.class_names)} classes ({first_names(model.class_names)}), {data.name} has "
            f"{len(present)} ({first_names(present)}), of which it does not know {first_names(strange)}; "
            "give data of the classes that it knows, or say with --class-order which output is which"
        )
    if len(present) < len(model.class_names):
        log.warning(
            f"{data.name}, {data.split}, has images of {len(present)} of the {len(model.class_names)} classes of "
            f"{model.name} ({first_names(present)}): these are evaluated; a prediction of another class is an error"
        )
    return model, data if data.class_names == model.class_names else data.with_class_order(model.class_names)


def _named_after(model: Classifier, data: Dataset, class_order: str | Sequence[str] | None) -> Classifier:
    """A copy of a classifier whose classes have the names of the data in the given order, as in `align`."""
    names, numbers = order_classes(model, data, class_order), tuple(map(str, range(len(model.class_names))))
    if model.has_names and model.class_names not in (names, numbers):
        raise DataError(
            f"{model.name} has class names of its own ({first_names(model.class_names)}), not those of the class order "
            f"({first_names(names)}); leave --class-order out"
        )
    model = copy(model)
    model.class_names, model.has_names = names, True
    return model


def order_classes(model: Classifier, data: Dataset, order: str | Sequence[str] | None) -> tuple[str, ...]:
    """The K names of a network's outputs, after the classes of data. A warning says what is assumed.

    Args:
        model: The network.
        data: The data.
        order: "sorted", as strings, like torchvision's ImageFolder; "numeric"; the K names themselves; or None for the
            order of the data.

    Raises:
        DataError: Which output is which class is unknown, or the classes are not those of the order.
    """
    names, present, count, owner = data.class_names, data.present_classes(), len(model.class_names), model.name
    if order is not None and order not in (SORTED, NUMERIC):
        if len(order) != count:
            raise DataError(f"the class order has {len(order)} names; {owner} has {count} outputs")
        if twice := duplicates(order):
            raise DataError(f"the class order has {twice} more than once; give every class a different name")
        return tuple(order)
    numbers = tuple(map(str, range(count)))
    every = next((tuple(pool) for pool in (names, present) if len(pool) == count), numbers)  # the K names in any order
    if not set(present) <= set(every):
        raise DataError(
            f"{owner} has {count} outputs without names, and the data have {len(present)} classes "
            f"({first_names(present)}), so which is which is unknown; {HOW}"
        )
    numeric = tuple(sorted(every, key=int)) if are_numbers(every) else None
    if order == NUMERIC:
        if numeric is None:
            raise DataError(f"--class-order numeric needs classes that are numbers, not {first_names(every)}")
        return numeric
    if order == SORTED:
        return tuple(sorted(every))
    if every == numbers != tuple(names):  # only some of the numbers are present: they may show the order of all
        known = [name for name in names if name in numbers]
        orders = dict.fromkeys((tuple(sorted(numbers)), numbers))
        fitting = [order for order in orders if len(orders) == 1 or keeps_order(known, order)]
        if len({tuple(map(order.index, present)) for order in fitting}) != 1:
            raise DataError(
                f"{owner} has {count} outputs without names, and the classes of the data, {first_names(present)}, "
                "do not show their order; give --class-order sorted, as torchvision's ImageFolder has them, or numeric"
            )
        every = fitting[0]
    if numeric is not None and every != numeric:
        log.warning(
            f"{owner} has no class names, and those of the data are numbers: taking the order of the data "
            f"({first_names(every)}), that of torchvision's ImageFolder where they are folders; "
            f"--class-order numeric takes {first_names(numeric)}"
        )
    return every


def keeps_order(names: Sequence[str], pool: Sequence[str]) -> bool:
    """Whether a pool contains these names, in the same order."""
    left = iter(pool)
    return all(name in left for name in names)
