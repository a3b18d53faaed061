"""Experiments on errors: small edits, covered cells, and averaging over copies."""
