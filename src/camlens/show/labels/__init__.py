"""Doubtful labels of training images: a table of all, and a page of the first on which people decide."""

from camlens.show.labels.page import write_page
from camlens.show.labels.table import write_table

__all__ = ["write_page", "write_table"]
