"""Sudoku and maze generators, solvers and symmetries."""
