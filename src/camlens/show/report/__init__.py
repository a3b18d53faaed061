"""The error report: one HTML file that shows what a classifier gets wrong, and why."""

from camlens.show.report.page import report, write_report

__all__ = ["report", "write_report"]
