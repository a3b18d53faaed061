"""`labels.csv`: all training images, the most doubtful label first."""

from pathlib import Path

from camlens.analyse.labels.training import RankedLabels
from camlens.files import write_csv

COLUMNS = ("index", "path", "label", "suggested", "doubt")


def write_table(ranked: RankedLabels, path: Path) -> None:
    """Write the table. `camlens train --labels` reads it, but only its columns `index`, `path` and `label`."""
    names, files = ranked.data.class_names, ranked.data.files
    doubts, suggested, labels = ranked.doubt.tolist(), ranked.suggested.tolist(), ranked.data.labels.tolist()
    rows = ((i, files[i], names[labels[i]], names[suggested[i]], f"{doubts[i]:.6f}") for i in ranked.order.tolist())
    write_csv(path, [COLUMNS, *rows])
