"""Running networks."""
