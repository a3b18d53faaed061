"""Backends: each runs a kind of network on one micro-batch and gives its logits and maps."""
