"""The figures: from arrays to sheets. They do not depend on models or data sets."""
