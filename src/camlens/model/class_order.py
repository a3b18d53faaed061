"""Which output of a network is which class of the data, if the network has no class names."""

from collections.abc import Sequence

from camlens.data.dataset import are_numbers, duplicates
from camlens.errors import DataError, UsageError
from camlens.files import is_unicode

MAX_CLASSES = 1_000_000
SORTED, NUMERIC = "sorted", "numeric"
HOW = "give --class-order FILE, with the name of one output per line, or a camlens.Classifier with class_names"


def order_classes(
    names: Sequence[str], present: Sequence[str], count: int, order: str | Sequence[str] | None, owner: str
) -> tuple[tuple[str, ...], str]:
    """Name the outputs of a network after the classes of data.

    Args:
        names: The classes of the data, in their order.
        present: The classes that have images.
        count: K, the number of outputs.
        order: "sorted", as strings, like torchvision's ImageFolder; "numeric"; the K names themselves; or None for the
            order of the data.
        owner: The network in words, for messages.

    Returns:
        The K names, and a sentence about what was assumed, "" if nothing was.

    Raises:
        DataError: Which output is which class is unknown, or the classes are not those of the order.
    """
    if order is not None and order not in (SORTED, NUMERIC):
        if len(order) != count:
            raise DataError(f"the class order has {len(order)} names; {owner} has {count} outputs")
        if twice := duplicates(order):
            raise DataError(f"the class order has {twice} more than once; give every class a different name")
        return tuple(order), ""
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
        return numeric, ""
    if order == SORTED:
        return tuple(sorted(every)), ""
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
    if numeric is None or every == numeric:
        return every, ""
    return every, (
        f"{owner} has no class names, and those of the data are numbers: taking the order of the data "
        f"({first_names(every)}), that of torchvision's ImageFolder where they are folders; "
        f"--class-order numeric takes {first_names(numeric)}"
    )


def keeps_order(names: Sequence[str], pool: Sequence[str]) -> bool:
    """Whether a pool contains these names, in the same order."""
    left = iter(pool)
    return all(name in left for name in names)


def checked_names(class_names: Sequence[str] | int) -> tuple[str, ...]:
    """Class names as a tuple; for a number K of classes, the names "0" to "K - 1".

    Raises:
        UsageError: There are fewer than two or more than `MAX_CLASSES`, two are the same, or one is not valid Unicode.
    """
    names = range(min(class_names, MAX_CLASSES + 1)) if isinstance(class_names, int) else class_names
    if isinstance(names, str) or not hasattr(names, "__len__") or not 2 <= len(names) <= MAX_CLASSES:
        raise UsageError(
            f"class_names is {class_names!r:.60}; expected a list of two or more names, {MAX_CLASSES:,} at most"
        )
    checked = tuple(map(str, names))
    if twice := duplicates(checked):
        raise UsageError(f"class_names has {twice} more than once; give every class a different name")
    if invalid := next((name for name in checked if not is_unicode(name)), None):
        raise UsageError(f"the class name {invalid!r} is not valid Unicode; rename it")
    return checked


def first_names(names: Sequence[str], count: int = 4) -> str:
    """The first names, for a message: "cat, dog, …"."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")
