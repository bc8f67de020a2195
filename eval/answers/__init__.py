"""How well a model answers: exact match, text scores, thinking, speed (SYSTEMS L-53 to L-79)."""
