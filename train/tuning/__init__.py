"""Training of an initial state or of low-rank additions, around the frozen model of a base."""
