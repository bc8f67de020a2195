"""HFT: one sketch of the whole context, and a field of local regressors that predicts the token.

    raw   = segments of the last L tokens               (context.py)
    x     = block SRHT(CountSketch(raw))
    z     = [x, compress(x)]                            with a compressor, a field of its own
    logits = sum over the K nearest tensors of w_i C_i alpha(n_i . z + delta_i)

There are no layers and no backpropagation through time: `local_update` replaces gradient and
optimizer. Source: `curvedinf/htfr` (HyperField Transformer); docs/systems.md, F-01 to F-31, for
what is changed and why. Shapes: B rows, T tokens, L window, V vocabulary, d features.
"""

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.arguments import checked_batch, checked_tokens
from jaxmodels.cells.hypertensor import combine, random_field, read
from jaxmodels.cells.hypertensor.candidates import Quantizer, candidates, empty_quantizer
from jaxmodels.cells.hypertensor.predict import Reading
from jaxmodels.cells.hypertensor.relocation import Queue, empty_queue
from jaxmodels.cells.hypertensor.split import mean_of
from jaxmodels.errors import UserError
from jaxmodels.models.contract import Term, num_targets, term_sums, token_terms, weighted_term
from jaxmodels.models.hft.config import PROJECTION, TAUGHT, HFTConfig
from jaxmodels.models.hft.context import positions_of, project, raw_entries, windows_of
from jaxmodels.models.hft.learn import learn, requantize
from jaxmodels.models.hft.whitener import Whitener, empty_whitener, gathered, whitened
from jaxmodels.ops.common.token_shift import last_token
from jaxmodels.ops.losses import token_nll


@struct.dataclass
class HFTState:
    """What is known of the document so far.

    Attributes:
      tokens: int32 (B, L), the last tokens, newest last; -1 before the document.
      position: int32 (B,), tokens read.
    """

    tokens: jax.Array
    position: jax.Array


@struct.dataclass
class HFTOutput:
    """Output at each token, and what it was computed from.

    Attributes:
      logits: float32 (B, T, V); (B, V) in `step`.
      answering: float32 (B, T), 1 / sum of squared weights: how many tensors answer.
      projected: float32 (B T, views x width), the contexts after the sketches.
      features: float32 (B T, d), the same, whitened if that is asked for.
      first: reading of the compressor, or None.
      inputs: float32 (B T, d or more), what the predictor read; reading: of the predictor.
      in_use: float32 scalar, fraction of tensors with a tenth of the mean usage or more.
      relocated: float32 scalar, tensors relocated so far.
    """

    logits: jax.Array
    answering: jax.Array
    projected: jax.Array
    features: jax.Array
    first: Reading | None
    inputs: jax.Array
    reading: Reading
    in_use: jax.Array
    relocated: jax.Array

    def map_tokens(self, function) -> "HFTOutput":
        """Apply a function to the arrays of tokens, see `jaxmodels.ragged`; others are of rows."""
        logits, answering = function((self.logits, self.answering))
        return self.replace(logits=logits, answering=answering)


def taught(batch) -> dict[str, jax.Array]:
    """Return the teacher's vectors in a batch, by the names of their segments."""
    return {name: batch[name] for name in TAUGHT if name in batch}


class HFT(nnx.Module):
    """Language model that is one field of local regressors over sketches of contexts."""

    def __init__(self, config: HFTConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        self.field = nnx.data(random_field(c.predictor, rngs.params()))
        self.compressor = nnx.data(random_field(c.first, rngs.params()) if c.compressor else None)
        self.queue: Queue = nnx.data(empty_queue(c.predictor, c.queue))
        self.whitener: Whitener | None = nnx.data(
            empty_whitener(c.projected, c.features) if c.whiten_after else None
        )
        # Built at the end of seeding; until then, search is exact.
        quantizer = empty_quantizer(self.field, c.cells) if c.cells else None
        self.quantizer: Quantizer | None = nnx.data(quantizer)
        self.seeded = nnx.Param(jnp.int32(0))  # tensors that were put at contexts
        self.relocated = nnx.Param(jnp.int32(0))

    @property
    def stored_dtype(self) -> str:
        """Name the dtype of the fields."""
        return str(self.config.predictor.dtype.__name__)

    def divided(self, name: str) -> bool:
        """Return whether an array is of tensors, which devices may share; see `Traits.divided`."""
        return name.startswith("field/") and name != "field/updates"

    def initial_state(self, batch_size: int) -> HFTState:
        """Return the state before the first token of a document."""
        tokens = jnp.full((batch_size, self.config.window), -1, jnp.int32)
        return HFTState(tokens, jnp.zeros((batch_size,), jnp.int32))

    @property
    def terms(self) -> tuple[Term, ...]:
        """Next-token loss and accuracy; how many tensors answer, are in use and were relocated."""
        return (
            *token_terms(),
            weighted_term("answering", lambda out: out.answering),
            Term("in_use", lambda out, batch: out.in_use * num_targets(batch)),
            Term("relocated", lambda out, batch: out.relocated * num_targets(batch)),
        )

    @checked_tokens
    def __call__(self, state: HFTState, tokens, reset=None, key=None, vectors=None, lengths=None):
        """Predict the token after each of `tokens` int32 (B, T): (state, HFTOutput).

        Args:
          state: of the tokens before.
          tokens: int32 (B, T).
          reset: bool (B, T) or None, True where a document starts.
          key: ignored, there is no dropout.
          vectors: a teacher's, float (B, T, size) by the names of their segments (`TAUGHT`); others
            are not read.
        """
        for name, x in (vectors or {}).items():
            if name in self.config.segments and x.shape[:-1] != tokens.shape:
                raise UserError(f"{name} must be {(*tokens.shape, 'size')}, got {x.shape}")
        state, x = self.projected(state, tokens, reset, vectors, lengths)
        return state, self._predict_all(x)

    @checked_tokens
    def step(self, state: HFTState, token):
        """Read one token int32 (B,): (state, HFTOutput without T)."""
        state, x = self.projected(state, token[:, None])
        return state, self._predict(x[:, 0])

    def features(self, state: HFTState, tokens, reset=None, vectors=None, lengths=None):
        """Return what a field reads of each token's context: (state, float32 (B, T, d)).

        Arguments as in a call.
        """
        state, x = self.projected(state, tokens, reset, vectors, lengths)
        return state, self._features(x)

    def projected(self, state: HFTState, tokens, reset=None, vectors=None, lengths=None):
        """Project the context of each token: (state, float32 (B, T, views x width))."""
        state, windows, positions = self.contexts(state, tokens, reset, lengths)
        return state, project(self.config, *raw_entries(self.config, windows, positions, vectors))

    def _features(self, x):
        return x if self.whitener is None else whitened(self.whitener, x)

    def contexts(self, state: HFTState, tokens, reset=None, lengths=None):
        """Return (state, windows int32 (B, T, L), positions int32 (B, T)) of each token.

        lengths: int (B,) or None; the tokens after these are padding and leave the state alone.
        """
        if not all(isinstance(size, int) for size in tokens.shape):
            raise UserError(
                f"tokens: HFT reads blocks of known size, got the symbolic shape {tokens.shape}; "
                "export it for numbers"
            )
        windows = windows_of(state.tokens, tokens, reset)
        positions = positions_of(state.position, reset, tokens.shape[1])
        window = last_token(windows, state.tokens, lengths)
        read = last_token(positions + 1, state.position, lengths)
        return HFTState(window, read), windows, positions

    def _predict_all(self, x) -> HFTOutput:
        """Predict from projected contexts (B, T, views x width)."""
        out = self._predict(x.reshape(-1, self.config.projected).astype(jnp.float32))
        shape = x.shape[:2]
        return out.replace(
            logits=out.logits.reshape(*shape, -1), answering=out.answering.reshape(shape)
        )

    def _predict(self, x) -> HFTOutput:
        c, first, z = self.config, None, (features := self._features(x))
        if self.compressor is not None:
            first = read(c.first, self.compressor, features, sparse=True)
            y = combine(self.compressor, first)
            z = jnp.concatenate([features, y], -1)
        reading = self._nearest(z)
        usage = self.field.usage.astype(jnp.float32)
        active = usage > 0.1 * mean_of(self.config.predictor, self.field, usage)
        return HFTOutput(
            logits=combine(self.field, reading),
            answering=1.0 / reading.total(jnp.sum(jnp.square(reading.weight), -1)),
            projected=x,
            features=features,
            first=first,
            inputs=z,
            reading=reading,
            in_use=mean_of(self.config.predictor, self.field, active),
            relocated=self.relocated[...].astype(jnp.float32),
        )

    def _nearest(self, z) -> Reading:
        c, field, quantizer = self.config.predictor, self.field, self.quantizer
        if quantizer is None:
            return read(c, field, z, sparse=True)
        return jax.lax.cond(
            quantizer.lost >= 0,
            lambda z: read(c, field, z, candidates=candidates(quantizer, z, self.config.probes)),
            lambda z: read(c, field, z, sparse=True),
            z,
        )

    @checked_batch
    def loss_sums(self, state, batch, key=None, progress=None):
        """Return the state after the batch and the sum of each term."""
        state, out = self._read(state, batch)
        return state, term_sums(self.terms, out, batch)

    def _read(self, state, batch) -> tuple[HFTState, HFTOutput]:
        reset = batch.get("reset")
        if "features" not in batch:
            return self(state, batch["inputs"], reset, vectors=taught(batch))
        return self.contexts(state, batch["inputs"], reset)[0], self._predict_all(batch["features"])

    @property
    def projection(self):
        """Return the settings of projected contexts, and their function; see `Traits`."""
        settings = {name: getattr(self.config, name) for name in PROJECTION}
        settings = {n: list(v) if isinstance(v, tuple) else v for n, v in settings.items()}

        def project(state, batch):
            return self.projected(state, batch["inputs"], batch["reset"], taught(batch))

        return settings, project

    def local_update(self, state, batch, *, key, axis_name):
        """Learn from a batch without backpropagation; see `Traits.local_update` and `learn.py`."""
        state, out = self._read(state, batch)
        c, whitener, quantizer = self.config, self.whitener, self.quantizer
        before = self.field, self.compressor, self.queue, self.seeded[...]
        if whitener is None:
            parts = learn(c, *before, out, batch, axis_name)
        else:
            parts = jax.lax.cond(
                whitener.batches >= c.whiten_after,
                lambda: learn(c, *before, out, batch, axis_name),
                lambda: (*before, jnp.int32(0)),
            )
            weights = batch["weights"].astype(jnp.float32).reshape(-1)
            whitener = gathered(c, whitener, out.projected, weights, axis_name)
        leaves, tree = jax.tree.flatten(self)
        model = jax.tree.unflatten(tree, leaves)
        model.field, model.compressor, model.queue = map(nnx.data, parts[:3])
        model.whitener = nnx.data(whitener)
        if quantizer is not None:
            model.quantizer = nnx.data(requantize(c, parts[0], quantizer, parts[3]))
        model.seeded[...] = parts[3]
        model.relocated[...] = self.relocated[...] + parts[4]
        return model, state, term_sums(self.terms, out, batch)

    def trace(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Return arrays to plot for tokens int (T,).

        They are answering (T,), the effective number of tensors; nearest (T,), the distance to the
        nearest anchor; log2_loss (T - 1,), bits per next token.
        """
        tokens = jnp.asarray(tokens)[None]
        _, out = self(self.initial_state(1), tokens)
        return {
            "answering": out.answering[0],
            "nearest": out.reading.distance.min(-1),
            "log2_loss": token_nll(out.logits[0, :-1], tokens[0, 1:]) / jnp.log(2.0),
        }
