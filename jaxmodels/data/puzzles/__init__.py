"""Sudoku and maze generators, solvers and symmetries."""

from jaxmodels.data.puzzles.kinds import PUZZLES, Puzzle
from jaxmodels.data.puzzles.maze import make_maze
from jaxmodels.data.puzzles.solver import is_solution, solve
from jaxmodels.data.puzzles.sudoku import make_sudoku, read_sudoku

__all__ = ["PUZZLES", "Puzzle", "is_solution", "make_maze", "make_sudoku", "read_sudoku", "solve"]
