"""Log-likelihoods of continuations: a context is read once, its continuations from its state.

    scorer = Scorer(model)
    scores = scorer.score([(context_ids, continuation_ids), ...])

Contexts of different lengths are read together, padded on the left, where a reset at the first real
token makes the state that of the context alone; their continuations padded on the right, which
comes too late to change anything. No length is too long: the state is carried from one segment to
the next. Shapes: B rows, T tokens of a segment, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of

SEGMENT = 256  # most tokens of a row in a call
SHORTEST = 16  # lengths of calls are powers of two from here, so that few programs are compiled
MOST_LOGITS = 1 << 26  # of a call: 256 MB in float32


class Score(NamedTuple):
    """Score of a continuation.

    Attributes:
      logprob: natural logarithm of its probability, summed over its tokens; 0 if it has none.
      greedy: whether each token is the most likely one.
    """

    logprob: float
    greedy: bool


class Scorer:
    """Scores continuations with a left-to-right language model.

    Attributes:
      tokens_read: tokens that the model has read so far, without padding: those of each distinct
        context once, and of each continuation all but the last.
    """

    def __init__(self, model, batch_size: int = 16):
        """Prepare.

        Args:
          model: see `jaxmodels.models.contract`; it has a `step`.
          batch_size: most rows of a call.

        Raises:
          UserError: the model cannot stream, or no rows.
        """
        if not traits_of(model).step:
            raise UserError(
                f"{type(model).__name__} has no step(): it is not a left-to-right language model"
            )
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: give 1 or more")
        self.model, self.batch_size, self.tokens_read = model, batch_size, 0
        token = jax.ShapeDtypeStruct((1,), jnp.int32)
        logits = jax.eval_shape(lambda t: model.step(model.initial_state(1), t)[1].logits, token)
        self.vocab_size = logits.shape[-1]
        most = MOST_LOGITS // (batch_size * self.vocab_size)
        self._segment = min(SEGMENT, max(SHORTEST, 1 << max(most, 1).bit_length() - 1))

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """Return the score of each (context, continuation), in order.

        Args:
          pairs: token ids; a context has one or more.

        Raises:
          UserError: an empty context, an id outside the vocabulary, or a model that computes NaN.
        """
        asked: dict[tuple[int, ...], list[int]] = {}
        for i, (context, continuation) in enumerate(pairs):
            asked.setdefault(tuple(map(int, context)), []).append(i)
            self._check(context, continuation)
        contexts = sorted(asked, key=len, reverse=True)
        scores: list[Score | None] = [None] * len(pairs)
        for start in range(0, len(contexts), self.batch_size):
            some = contexts[start : start + self.batch_size]
            state, logits = self._read(some)
            rows = [(row, i) for row, context in enumerate(some) for i in asked[context]]
            rows.sort(key=lambda x: len(pairs[x[1]][1]), reverse=True)
            for first in range(0, len(rows), self.batch_size):
                part = rows[first : first + self.batch_size]
                ids = [np.asarray(pairs[i][1], np.int32) for _, i in part]
                found = self._continue(state, logits, [row for row, _ in part], ids)
                for (_, i), score in zip(part, found, strict=True):
                    scores[i] = score
        return scores

    def _check(self, context, continuation) -> None:
        if not len(context):
            raise UserError("an empty context: give a token or more")
        for ids in (context, continuation):
            if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
                raise UserError(
                    f"id {max(ids)} is outside the model's vocabulary of {self.vocab_size:,}; is "
                    "this its tokenizer?"
                )

    def _read(self, contexts: list[tuple[int, ...]]):
        """Return the state after each context, leaves (B, ...), and the next logits (B, V)."""
        rows, longest = _rows(len(contexts), self.batch_size), len(contexts[0])
        length = _length(longest, self._segment)
        tokens = np.zeros((rows, length), np.int32)
        reset = np.zeros((rows, length), bool)
        for row, context in enumerate(contexts):
            tokens[row, length - len(context) :] = context
            reset[row, length - len(context)] = True
            self.tokens_read += len(context)
        state, logits = self.model.initial_state(rows), None
        for start in range(0, length, self._segment):
            part = slice(start, start + self._segment)
            state, logits = _read(self.model, state, tokens[:, part], reset[:, part])
        return state, logits

    def _continue(self, state, logits, rows: list[int], ids: list[np.ndarray]) -> list[Score]:
        """Return the scores of continuations `ids` of contexts `rows`."""
        filled = np.array(rows + rows[:1] * (_rows(len(rows), self.batch_size) - len(rows)))
        state, logits = jax.tree.map(lambda x: x[filled], (state, logits))
        longest = max(map(len, ids))
        length = _length(max(longest - 1, 0), self._segment)
        # Column j reads token j and scores token j + 1; the context's logits score token 0.
        tokens = np.zeros((len(filled), length + 1), np.int32)
        for row, continuation in enumerate(ids):
            tokens[row, : len(continuation)] = continuation
            self.tokens_read += max(len(continuation) - 1, 0)
        columns = [_chosen(logits[:, None], tokens[:, :1])]
        for start in range(0, length, self._segment):
            part = tokens[:, start : start + self._segment + 1]
            state, found = _score(self.model, state, part[:, :-1], part[:, 1:])
            columns.append(found)
        logprobs, greedy = (np.concatenate(x, 1) for x in zip(*columns, strict=True))
        scores = []
        for row, continuation in enumerate(ids):
            count = len(continuation)
            total = float(logprobs[row, :count].astype(np.float64).sum())
            if np.isnan(total):
                raise UserError("the model computes NaN; train it again or take another checkpoint")
            scores.append(Score(total, bool(greedy[row, :count].all())))
        return scores


def _rows(count: int, most: int) -> int:
    """Return the rows of a call for so many: a power of two, or the most."""
    return min(1 << max(count - 1, 0).bit_length(), most)


def _length(count: int, segment: int) -> int:
    """Return the tokens to read for so many: a power of two, or whole segments."""
    if count == 0:
        return 0
    if count > segment:
        return -(-count // segment) * segment
    return max(SHORTEST, 1 << (count - 1).bit_length())


@jax.jit
def _read(model, state, tokens, reset):
    """Read tokens int32 (B, T); return the state and the logits after the last, (B, V)."""
    state, out = model(state, tokens, reset=reset)
    return state, out.logits[:, -1].astype(jnp.float32)


@jax.jit
def _score(model, state, tokens, targets):
    """Read tokens int32 (B, T); return the state and, of the targets, what `_chosen` does."""
    state, out = model(state, tokens)
    return state, _chosen(out.logits, targets)


@jax.jit
def _chosen(logits, targets):
    """Return (log-probabilities of targets (B, T) under logits (B, T, V), whether the largest)."""
    logits = logits.astype(jnp.float32)
    own = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return own - jax.nn.logsumexp(logits, -1), jnp.argmax(logits, -1) == targets
