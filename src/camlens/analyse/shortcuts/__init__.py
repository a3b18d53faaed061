"""Shortcuts: local patches by which a network recognises a class."""
