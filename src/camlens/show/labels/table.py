"""`labels.csv`: every training image by falling doubt in its label."""

import csv
import io
from pathlib import Path

from camlens.analyse.training_labels import RankedLabels
from camlens.files import write_text

COLUMNS = ("index", "path", "label", "suggested", "doubt")


def write_table(ranked: RankedLabels, path: Path) -> None:
    """Write the table. `camlens train --labels` takes it, and obeys the column `label` alone."""
    data, names, text = ranked.data, ranked.data.class_names, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    doubts, suggested, labels = ranked.doubt.tolist(), ranked.suggested.tolist(), data.labels.tolist()
    for index in ranked.order.tolist():
        named = names[labels[index]], names[suggested[index]]
        writer.writerow([index, data.files[index], *named, f"{doubts[index]:.6f}"])
    write_text(path, text.getvalue())
