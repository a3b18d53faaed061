"""The error report: one HTML file that shows what a classifier gets wrong, and why.

`page.py` writes it. The JSON in it, which `schema.py` describes, is made by `render.py` and `experiments.py`, and its
pictures and maps by `packing.py`. `listing.py` makes report.json; `saved.py` reads a report back.
"""

from camlens.show.report.page import report, write_report

__all__ = ["report", "write_report"]
