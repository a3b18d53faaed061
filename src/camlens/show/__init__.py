"""For people: figures, the error report, the explorer and the export."""
