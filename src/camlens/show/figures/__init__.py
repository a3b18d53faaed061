"""The figures: from arrays to sheets. Nothing here knows a model or a data set."""

from camlens.show.figures.confusion_matrix import confusion
from camlens.show.figures.data_overview import overview
from camlens.show.figures.errors import Case, gradcam, misclassified
from camlens.show.figures.explanation import ExplainedPicture, explained, methods
from camlens.show.figures.learning_curves import curves
from camlens.show.figures.reliability import calibration

__all__ = [
    "Case",
    "ExplainedPicture",
    "calibration",
    "confusion",
    "curves",
    "explained",
    "gradcam",
    "methods",
    "misclassified",
    "overview",
]
