"""State tracking tasks: the answer depends on all tokens so far, and for S5 on their order.

Parity needs a negative eigenvalue; S5 is the smallest symmetric group whose word problem is
NC^1-complete, which diagonal transitions cannot solve (arXiv 2404.08819, 2411.12537).
"""

import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from jaxmodels.data.synthetic.rows import batch_generator, make_batch, require_whole
from jaxmodels.errors import UserError

PERMUTATIONS = np.array(list(itertools.permutations(range(5))))  # (120, 5), [0] the identity
_PLACE = 5 ** np.arange(4, -1, -1)
# THEN[i, j]: index of "permutation i, then permutation j", x -> j[i[x]].
THEN = np.searchsorted(PERMUTATIONS @ _PLACE, PERMUTATIONS[:, PERMUTATIONS].swapaxes(0, 1) @ _PLACE)
_MOVED = np.sum(PERMUTATIONS != np.arange(5), 1)
MOVES = {
    "all": np.arange(120),
    "swaps": np.flatnonzero(_MOVED == 2),
    "generators": np.flatnonzero(
        (PERMUTATIONS == (1, 0, 2, 3, 4)).all(1) | (PERMUTATIONS == (1, 2, 3, 4, 0)).all(1)
    ),
}


@dataclasses.dataclass(frozen=True)
class Parity:
    """Parity of the ones so far, at every position; bits are uniform.

    Attributes:
      seq_len: T.
    """

    seq_len: int = 32
    vocab_size: ClassVar[int] = 2
    chance: ClassVar[float] = 0.5

    def __post_init__(self):
        require_whole(self, seq_len=1)

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        inputs = rng.integers(0, 2, (batch_size, self.seq_len))
        return make_batch(inputs, np.cumsum(inputs, 1) % 2, np.ones(inputs.shape, bool))


@dataclasses.dataclass(frozen=True)
class S5:
    """Composition of the permutations of five elements so far, at every position: 120 classes.

    Tokens and labels are indices into `PERMUTATIONS`, in lexicographic order.

    Attributes:
      seq_len: T.
      moves: permutations that occur as tokens, uniformly: "all" 120, the 10 "swaps" of two
        elements, or two "generators", a swap and a five-cycle.
    """

    seq_len: int = 16
    moves: str = "swaps"
    vocab_size: ClassVar[int] = 120  # all of them are labels

    def __post_init__(self):
        require_whole(self, seq_len=1)
        if self.moves not in MOVES:
            raise UserError(f"S5: moves must be one of {', '.join(MOVES)}, got {self.moves!r}")

    @property
    def chance(self) -> float:
        """Accuracy of guessing the likeliest permutation at each position, averaged."""
        moves = MOVES[self.moves]
        likely = np.eye(120)[0]
        best = []
        for _ in range(self.seq_len):
            arrived = np.zeros(120)
            np.add.at(arrived, THEN[:, moves], likely[:, None] / len(moves))
            likely = arrived
            best.append(likely.max())
        return float(np.mean(best))

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch; see the package docstring."""
        rng = batch_generator(seed, index, batch_size)
        inputs = rng.choice(MOVES[self.moves], (batch_size, self.seq_len))
        targets, product = np.empty_like(inputs), np.zeros(batch_size, np.int64)
        for t in range(self.seq_len):
            targets[:, t] = product = THEN[product, inputs[:, t]]
        return make_batch(inputs, targets, np.ones(inputs.shape, bool))
