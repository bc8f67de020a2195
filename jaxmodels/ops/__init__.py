"""Array-in, array-out maths without parameters."""
