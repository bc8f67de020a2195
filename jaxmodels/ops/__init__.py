"""Array functions without parameters of their own: recurrences, attention, norms, losses."""
