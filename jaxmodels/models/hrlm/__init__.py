"""HRLM: hierarchical reasoning over text and grids, with adaptive halting."""
