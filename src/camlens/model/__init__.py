"""Networks: classifiers, loading them, and running them unchanged."""
