"""Wrong labels: doubt in them, marks that a person makes, and estimates from these marks."""
