"""Output: figures, the error report, the explorer, the page of doubtful labels and the export."""
