"""For people: figures."""
