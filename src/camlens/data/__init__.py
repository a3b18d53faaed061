"""Data: images with labels, from files, folders, tables and other libraries."""
