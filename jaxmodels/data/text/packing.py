"""Packing of documents into rows of fixed length by best fit."""

from __future__ import annotations

import numpy as np

from jaxmodels.data.random import random_words


def pack(
    starts: np.ndarray, lengths: np.ndarray, row_length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pack the (input, target) pairs of documents into rows.

    A document of n tokens has n - 1 pairs; its last token is never an input. Documents with more
    than `row_length` pairs are cut into pieces of that many, each of which resets the state. Pieces
    are placed longest first, each into the fullest row with room for it.

    Args:
      starts: (documents,) int64, position of the first token of each document.
      lengths: (documents,) int64, tokens of each.
      row_length: pairs per row.
      seed: any integer; breaks ties between pieces of equal length.

    Returns:
      positions: (rows, row_length) int32 (int64 past 2^31 tokens), position of each input token, -1
      = padding. piece_starts: same shape, position of the first token of this input's piece.
    """
    pairs = np.maximum(lengths - 1, 0)
    pieces_each = -(-pairs // row_length)
    owner = np.repeat(np.arange(len(lengths)), pieces_each)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces_each) - pieces_each, pieces_each)
    sizes = np.minimum(pairs[owner] - number * row_length, row_length)
    begins = starts[owner] + number * row_length

    tie = random_words(seed, -1, len(sizes))  # epochs are the streams 0, 1, ...
    order = np.lexsort((tie, -sizes))
    row_of, column_of, rows = _best_fit(sizes[order].tolist(), row_length)

    dtype = np.int32 if lengths.sum() < 2**31 else np.int64
    positions = np.full((rows, row_length), -1, dtype)
    piece_starts = np.full((rows, row_length), -1, dtype)
    sizes, begins = sizes[order], begins[order]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    flat = np.repeat(np.array(row_of, np.int64) * row_length + np.array(column_of, np.int64), sizes)
    positions.reshape(-1)[flat + within] = np.repeat(begins, sizes) + within
    piece_starts.reshape(-1)[flat + within] = np.repeat(begins, sizes)
    return positions, piece_starts


def _best_fit(sizes: list[int], row_length: int) -> tuple[list[int], list[int], int]:
    """Return the row and column of each piece, and the number of rows; sizes are descending."""
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]  # by free space
    nonempty = 0  # bit r is set if a row has r free; the lowest bit >= size is the best fit
    row_of, column_of, rows = [], [], 0
    for size in sizes:
        fitting = nonempty >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                nonempty &= ~(1 << room)
        else:
            row, room, rows = rows, row_length, rows + 1
        row_of.append(row)
        column_of.append(row_length - room)
        left = room - size
        if left:
            open_rows[left].append(row)
            nonempty |= 1 << left
    return row_of, column_of, rows
