"""Looking: which parts of an image a network's answer rests on."""
