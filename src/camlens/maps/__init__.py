"""Maps: which parts of an image a network's prediction is based on."""
