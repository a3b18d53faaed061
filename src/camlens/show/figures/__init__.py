"""The figures: from arrays to sheets. Nothing here knows a model or a data set."""
