"""Class names: what is accepted as such, and how messages list them."""

from collections.abc import Sequence

from camlens.data.dataset import duplicates
from camlens.errors import UsageError
from camlens.files import is_unicode

MAX_CLASSES = 1_000_000


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
