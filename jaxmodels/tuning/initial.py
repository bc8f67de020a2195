"""A learned initial state, at the start of a model and of every document.

The idea is state tuning of RWKV-PEFT (JL-er/RWKV-PEFT), where the matrix states of RWKV-5 to -7 are
trained with frozen weights. Here every array of the state is learned that is a memory: not those
that count, mark, or hold another's exponent (`jaxmodels.cells.base.bookkeeping`).

Cells know only their own initial state. A document that starts a row starts from the learned one by
a selection, and the fast form of the model reads the row without resets. If a document starts
within a row, the batch is read in pieces, and a piece within which one starts token by token,
selecting at each: the same function, slower.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.base import BOOKKEEPING, where_reset
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.ops import losses
from jaxmodels.ops.common.chunks import remat_over_time
from jaxmodels.tree import flatten, unflatten
from jaxmodels.tuning.wrapper import Wrapper

PIECE = 32  # tokens of a piece


class InitialState(Wrapper):
    """A model with a learned initial state.

    Attributes:
      initial: {name of an array of the state: float32 (1, ...)}.
    """

    def __init__(self, base: nnx.Module):
        super().__init__(base)
        state = base.initial_state(1)
        leaves, memory = flatten(state), flatten(_memories(state))
        self.initial = nnx.Dict({n: nnx.Param(x) for n, x in leaves.items() if memory[n]})

    def initial_state(self, batch_size: int):
        """Return the learned state, equal in all rows."""
        state = self.base.initial_state(batch_size)
        leaves = flatten(state)
        for name, value in self.initial.items():
            leaves[name] = jnp.repeat(value[...], batch_size, 0)
        return unflatten(state, leaves)

    def parameter_label(self, name: str) -> str:
        """See `Traits`."""
        del name
        return "initial/state"

    def step(self, state, token):
        """Read one token int (B,); see `Traits`."""
        return self.base.step(state, token)

    def __call__(self, state, tokens, reset=None, key=None):
        """See `Model.__call__`.

        For a model without the trait `sums_by_token`, outputs are NaN if a document starts within a
        row.
        """

        def read(state, tokens, key):
            return self.base(state, tokens, None, key)

        def by_pieces(state):
            inputs = (tokens, reset, _places(reset))
            piece = functools.partial(self._piece, read, _joined, key)
            return remat_over_time(piece, state, inputs, PIECE, time_axis=1)

        return self._from_resets(read, by_pieces, state, tokens, reset, key)

    def loss_sums(self, state, batch, key=None, progress=None):
        """See `Model.loss_sums` and `__call__`."""
        batch = dict(batch)
        reset = batch.pop("reset", None)

        def read(state, batch, key):
            return self.base.loss_sums(state, batch, key=key, progress=progress)

        def by_pieces(state):
            def piece(carry, inputs):
                state, before = carry
                state, sums = self._piece(read, _summed, key, state, inputs)
                return (state, jax.tree.map(jnp.add, before, sums)), None

            zeros = {term.name: jnp.float32(0.0) for term in self.terms}
            inputs = (batch, reset, _places(reset))
            return remat_over_time(piece, (state, zeros), inputs, PIECE, time_axis=1)[0]

        return self._from_resets(read, by_pieces, state, batch, reset, key)

    def _from_resets(self, read, by_pieces, state, inputs, reset, key):
        """Read rows whole, or in pieces if a document starts within one of them."""
        if reset is None:
            return read(state, inputs, key)
        if self.sums_by_token:
            return self._started(read, by_pieces, state, inputs, reset, key)

        def broken(state):
            state, out = read(state, inputs, key)
            return state, jax.tree.map(_nan_of, out)

        return self._started(read, broken, state, inputs, reset, key)

    def _started(self, read, otherwise, state, inputs, reset, key):
        """Apply `otherwise` if a document starts within a row, else read from the right state."""

        def whole(state):
            fresh = self.initial_state(reset.shape[0])
            return read(where_reset(reset[:, 0], fresh, state), inputs, key)

        return jax.lax.cond(jnp.any(reset[:, 1:]), otherwise, whole, state)

    def _piece(self, read, join, key, state, inputs):
        """Read some tokens of each row, token by token if a document starts within one of them.

        Args:
          read: (state, inputs, key) -> (state, outputs).
          join: outputs of single tokens, stacked along a new first axis -> those of `read`.
          key: key of the rows, or None.
          state, inputs: state, and (inputs of `read`, reset, places), each (rows, tokens, ...).
        """
        rows, reset, places = inputs
        initial = self.initial_state(reset.shape[0])

        def own(place):
            return None if key is None else jax.random.fold_in(key, place)

        def token(state, inputs):
            row, reset, place = inputs
            state = where_reset(reset, initial, state)
            return read(state, jax.tree.map(lambda x: x[:, None], row), own(place))

        def by_token(state):
            rows_by_time, reset_by_time = jax.tree.map(lambda x: x.swapaxes(0, 1), (rows, reset))
            state, outs = jax.lax.scan(token, state, (rows_by_time, reset_by_time, places[0]))
            return state, join(outs)

        return self._started(read, by_token, state, rows, reset, own(places[0, 0]))

    def trace(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Return {"log2_loss": (T - 1,)}, bits per next token, of tokens int (T,)."""
        tokens = jnp.asarray(tokens)[None]
        _, out = self(self.initial_state(1), tokens)
        return {"log2_loss": losses.token_nll(out.logits[0, :-1], tokens[0, 1:]) / math.log(2.0)}

    @property
    def intermediates(self):
        """See `Traits`; the state that is given may be the learned one."""
        return traits_of(self.base).intermediates

    @property
    def check_data(self):
        """See `Traits`: also refuse rows that the model can only read whole."""

        def check(data, seq_len, classes=None):
            if self.base_check is not None:
                self.base_check(data, seq_len, classes)
            if not self.sums_by_token and data.format != "chat":
                raise UserError(
                    f"config.tune.kind: {type(self.base).__name__} reads a row as a whole, so its "
                    "initial state can be learned only where no document starts within a row: from "
                    "conversations (config.data.format=chat)"
                )

        return check

    @property
    def base_check(self):
        """The base's `check_data`, or None."""
        return traits_of(self.base).check_data


def learn_state(base: nnx.Module) -> InitialState:
    """Return a model that learns its initial state; it starts as the base, exactly.

    Raises:
      UserError: `base` does not read token by token, or its state has no memory to learn.
    """
    name = type(base).__name__
    if traits_of(base).step is None:
        raise UserError(f"{name} does not read token by token: it has no initial state to learn")
    model = InitialState(base)
    if not model.initial:
        raise UserError(
            f"{name} starts with an empty state, which has nothing to learn; learn low-rank "
            "additions (lora) instead"
        )
    return model


def _places(reset):
    """Return the place of each token in its row, int32 (1, T)."""
    return jnp.arange(reset.shape[1], dtype=jnp.int32)[None]


def _joined(outs):
    """Join outputs of single tokens, (T, B, 1, ...) -> (B, T, ...)."""
    return jax.tree.map(lambda x: x[:, :, 0].swapaxes(0, 1), outs)


def _summed(sums):
    return jax.tree.map(lambda x: x.sum(0), sums)


def _nan_of(x):
    return jnp.full_like(x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _memories(state):
    """Return the state with True for arrays that are memories, False for bookkeeping."""
    if dataclasses.is_dataclass(state):
        parts = {}
        for field in dataclasses.fields(state):
            part = getattr(state, field.name)
            if BOOKKEEPING in field.metadata:
                parts[field.name] = jax.tree.map(lambda _: False, part)
            else:
                parts[field.name] = _memories(part)
        return dataclasses.replace(state, **parts)
    if isinstance(state, dict):
        return {name: _memories(part) for name, part in state.items()}
    if isinstance(state, tuple | list):
        parts = map(_memories, state)
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return None if state is None else True
