"""A system's success numbers, each with what was measured beside it."""
