"""The errors."""
