"""RNK: raw bytes, a Mamba over chunks of them, a plan per chunk, and a GRU that writes the next.

    bytes -> mean of a chunk -> Mamba -> m ;  context = m at the end of the prompt
    intent = softmax(W context) ;  p = planner(m + s E^T intent) ;  r = refiner(p) + s E^T intent
    stop = w r ;  answerable = w (context + s E^T intent)
    next byte = GRU(byte, r of the last chunk that ended, context)

The plan that conditions a byte has read only chunks that ended before it, and the GRU reads the
bytes since: logits never depend on the byte they predict. The original's leaks are ablations of
`RNKConfig`: "own_chunk", "byte_index" and "attention".

Sources: zabwie/RNM (commit 2291566) for the system; docs/systems.md, R-01 to R-35, for what is
changed and why. Shapes: B batch, T bytes, d width, n chunks, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.arguments import checked_batch, checked_tokens
from jaxmodels.cells.base import bookkeeping, where_reset
from jaxmodels.cells.layers import Embedding, Linear, dot
from jaxmodels.models.contract import term_sums
from jaxmodels.models.language import layer_of, stack
from jaxmodels.models.mamba import MambaLayer
from jaxmodels.models.rnk.chunking import (
    OpenChunk,
    after,
    last_prompts,
    look_up,
    mean_of,
    of_bytes,
    open_chunk,
    read_byte,
    read_bytes,
)
from jaxmodels.models.rnk.config import RNKConfig
from jaxmodels.models.rnk.decoder import Decoder
from jaxmodels.models.rnk.planner import MLP, Planner, Refiner
from jaxmodels.models.rnk.router import Router
from jaxmodels.models.rnk.terms import Responses, RNKOutput, response_of, terms_of
from jaxmodels.ops import losses
from jaxmodels.ragged import hold_after

MATH_SCALE = 3.0  # weight of the intent's embedding if it is "math", else 1


@struct.dataclass
class RNKState:
    """Float32 state.

    Attributes:
      chunk: the chunk that is being read.
      mamba: state of the Mamba layers, leaves (B, layers, ...).
      plan: (B, d), of the last chunk; planned: (B,), 1 after the first chunk of a document.
      context: (B, d), of the last prompt; prompted: (B,), 1 after the first prompt of a document.
      hidden: (B, decoder_layers, d), the GRU's state.
      router: (B, 3, d), the last embedded bytes, with chunking="learned"; else None.
    """

    chunk: OpenChunk = bookkeeping()
    mamba: object
    plan: jax.Array = bookkeeping()
    planned: jax.Array = bookkeeping()
    context: jax.Array = bookkeeping()
    prompted: jax.Array = bookkeeping()
    hidden: jax.Array
    router: jax.Array | None


class Known(NamedTuple):
    """What is known after a chunk, (B, m, ...): m = 1 in `step`, else n + 2, see `_table`.

    Attributes:
      plan, context: (B, m, d).
      prompted: (B, m), 1 if a prompt has ended.
    """

    plan: jax.Array
    context: jax.Array
    prompted: jax.Array


class RNK(nnx.Module):
    """Language model over bytes that plans each chunk before it writes it."""

    sums_by_token = False  # responses and prompts are read whole

    def __init__(self, config: RNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        scaled = nnx.initializers.normal(c.width**-0.5)  # read times sqrt(width)
        self.embed = Embedding(c.vocab_size, c.width, init=scaled, rngs=rngs)
        self.layers = stack([MambaLayer(c.layers, rngs=rngs, layer=i) for i in range(c.num_layers)])
        self.planner = Planner(c, rngs=rngs)
        self.refiner = Refiner(c, rngs=rngs) if c.refine else None
        self.decoder = Decoder(c, rngs=rngs)
        self.intent = Linear(c.width, len(c.intents), rngs=rngs)
        self.intents = Embedding(len(c.intents), c.width, init=scaled, rngs=rngs)
        self.answerable = Linear(c.width, 1, rngs=rngs)
        self.stop = Linear(c.width, 1, rngs=rngs)
        if c.plan_from == "previous":
            self.start = nnx.Param(scaled(rngs.params(), (c.width,), jnp.float32))
        self.router = Router(c, rngs=rngs) if c.chunking == "learned" else None
        if c.extras:
            self.latent = MLP(c.width, c.hidden_size, c.width, rngs=rngs)
            self.relevance = MLP(2 * c.width, c.hidden_size, 1, rngs=rngs)

    def initial_state(self, batch_size: int) -> RNKState:
        """Return the state before the first byte of a document."""
        c = self.config
        mamba = layer_of(self.layers, 0).initial_state(batch_size)
        vector = jnp.zeros((batch_size, c.width), jnp.float32)
        flag = jnp.zeros((batch_size,), jnp.float32)
        return RNKState(
            chunk=open_chunk(batch_size, c.width),
            mamba=jax.tree.map(lambda x: jnp.repeat(x[:, None], c.num_layers, 1), mamba),
            plan=vector,
            planned=flag,
            context=vector,
            prompted=flag,
            hidden=self.decoder.initial_state(batch_size),
            router=None if self.router is None else self.router.initial_state(batch_size),
        )

    @property
    def step(self):
        """(state, token int (B,)) -> (state, RNKOutput without T): the definition of the model.

        None for ablations that look ahead.
        """
        return self._step if self.config.streams else None

    @checked_tokens
    def _step(self, state: RNKState, token):
        c = self.config
        features, chance, router = self._features(token), None, None
        if self.router is not None:
            router, chance = self.router.step(state.router, features)
        chunk, ends = read_byte(c, state.chunk, token, features, chance)

        # Only where a chunk ends: at most one byte in several reads the Mamba and plans.
        state = jax.lax.cond(
            jnp.any(ends.emits),
            lambda: where_reset(ends.emits, self._close(state, chunk, ends, chance), state),
            lambda: state,
        )

        known = self._table(state, None)
        projected = self.decoder.project(known.plan, known.context)[:, 0]
        entry = self.decoder.entry(known.plan, known.context)[:, 0]
        hidden, logits = self.decoder.step(state.hidden, token, projected, entry, ends)
        state = state.replace(chunk=after(c, chunk, ends), hidden=hidden, router=router)
        heads = self._heads(jax.tree.map(lambda x: x[:, 0], known))
        stop = self.stop(known.plan, c.dtype)[:, 0, 0]
        return state, RNKOutput(logits=logits, stop=stop, ends=ends, chance=chance, **heads)

    def _close(self, state, chunk, ends, chance):
        """Return the state after `chunk` has been read and the next one planned."""
        mamba, m = self._through(lambda layer, s, x: layer.step(s, x), state.mamba, mean_of(chunk))
        context = jnp.where(ends.prompt[:, None], m, state.context)
        prompted = jnp.maximum(state.prompted, ends.prompt.astype(jnp.float32))
        plan, _ = self._plan(Known(m[:, None], context[:, None], prompted[:, None]))
        share = self._share(state.planned, chance)
        return state.replace(
            mamba=mamba,
            plan=share * plan[:, 0] + (1.0 - share) * state.plan,
            planned=jnp.ones_like(state.planned),
            context=context,
            prompted=prompted,
        )

    @checked_tokens
    def __call__(self, state: RNKState, tokens, reset=None, key=None, lengths=None):
        """Read tokens int (B, T) with reset bool (B, T) or None -> (state, RNKOutput).

        Equal to `step` over time, except for the ablations that look ahead. Time and memory are
        linear in T: the Mamba and the planner work on chunks, the GRU and cheap sums on bytes. A
        row with more chunks than `RNKConfig.most_chunks` gets NaN. With `hold`, chunks are of the
        bytes that are read.
        """
        del key  # no randomness
        c, time = self.config, tokens.shape[1]
        reset = jnp.zeros(tokens.shape, bool) if reset is None else reset
        hold = None if lengths is None else hold_after(lengths, time)
        features, chance, router = self._features(tokens), None, None
        if self.router is not None:
            router, chance = self.router(state.router, features, reset, lengths)
        chunk, ends, chunks = read_bytes(c, state.chunk, tokens, features, chance, reset, hold)

        # Documents begun before each byte and each chunk's end.
        begun = jnp.cumsum(reset.astype(jnp.int32), 1)
        place, real = jnp.minimum(chunks.at, time - 1), chunks.at < time
        begun_at = jnp.pad(jnp.take_along_axis(begun, place, 1), [(0, 0), (1, 0)])
        first = real & (begun_at[:, 1:] > begun_at[:, :-1])
        prompt = real & jnp.take_along_axis(ends.prompt, place, 1)
        count = jnp.sum(real, 1, dtype=jnp.int32)

        def through(layer, state, xs):
            return layer(state, xs, first, lengths=count)

        mamba, m = self._through(through, state.mamba, chunks.mean)
        if c.prompt_at == "byte_index":  # the last chunk, which has read the response
            m_last = jnp.take_along_axis(m, jnp.maximum(count - 1, 0)[:, None, None], 1)
            context, prompted = jnp.broadcast_to(m_last, m.shape), real.astype(jnp.float32)
        else:
            context, prompted = last_prompts(state, m, first, prompt)
        raw, gates = self._plan(Known(m, context, prompted))
        strength = None if chance is None else jnp.take_along_axis(chance, place, 1)
        plans = self._smoothed(state, raw, first, strength)
        known = self._table(state, Known(plans, context, prompted))

        # Each byte reads the entry of the last chunk that ended, or the last entry, that of a fresh
        # document, if its document has begun since.
        since = begun > jnp.take_along_axis(begun_at, jnp.minimum(chunks.index, m.shape[1]), 1)
        index = jnp.where(since, m.shape[1] + 1, chunks.index)
        read = index
        if c.plan_from == "own_chunk":
            read = jnp.minimum(index + 1, count[:, None])
        decoded = known
        if c.decoder_context == "attention":
            decoded = known._replace(context=self._attended(known, tokens, count, hold))
        projected = self.decoder.project(decoded.plan, decoded.context)
        entry = self.decoder.entry(decoded.plan, decoded.context)
        hidden, logits = self.decoder(
            state.hidden, tokens, projected, entry, read, ends, reset, hold
        )
        full = chunks.index[:, -1] > m.shape[1]
        logits = jnp.where(full[:, None, None], jnp.nan, logits)

        end = index[:, -1:]
        planned = jnp.pad(jnp.ones(m.shape[:2], jnp.float32), [(0, 0), (0, 1)])
        planned = jnp.concatenate([state.planned[:, None], planned], 1)
        raw_plans = jnp.concatenate([state.plan[:, None], plans, jnp.zeros_like(plans[:, :1])], 1)
        last = jax.tree.map(lambda x: look_up(x, end)[:, 0], known)
        fresh = self.initial_state(tokens.shape[0])
        new = RNKState(
            chunk=chunk,
            mamba=where_reset(since[:, -1], fresh.mamba, mamba),
            plan=look_up(raw_plans, end)[:, 0],
            planned=look_up(planned, end)[:, 0],
            context=last.context,
            prompted=last.prompted,
            hidden=hidden,
            router=router,
        )
        answers = real & (prompted > 0) & ~prompt & (begun_at[:, 1:] == begun[:, -1:])
        out = RNKOutput(
            logits=logits,
            stop=look_up(self.stop(known.plan, c.dtype), read)[..., 0],
            ends=ends,
            chance=chance,
            chunks=Responses(chunks.mean, plans, answers, gates, index),
            **self._heads(last),
        )
        return new, self._with_extras(out)

    def _features(self, tokens):
        return self.config.width**0.5 * self.embed(tokens)

    def _through(self, run, state, xs):
        """Scan run(layer, state, xs) -> (state, ys) over the Mamba layers."""

        def body(xs, inputs):
            state, xs = run(*inputs, xs)
            return xs, state

        by_layer = jax.tree.map(lambda x: x.swapaxes(0, 1), state)
        xs, by_layer = jax.lax.scan(body, xs, (self.layers, by_layer))
        return jax.tree.map(lambda x: x.swapaxes(0, 1), by_layer), xs

    def _plan(self, known: Known):
        """Plan from known.plan (B, m, d), the Mamba's output -> (plans, the refiner's gates)."""
        intent = self._intent_vector(known)
        plan = self.planner(known.plan + intent)
        if self.refiner is None:
            return plan, None
        plan, gates = self.refiner(plan)
        return plan + intent, gates

    def _intent_vector(self, known):
        """Return s E^T softmax(W context), (..., d), 0 before a prompt has ended."""
        c = self.config
        shares = jax.nn.softmax(self.intent(known.context, c.dtype), -1)
        scale = 1.0
        if "math" in c.intents:
            math = c.intents.index("math")
            scale = 1.0 + (MATH_SCALE - 1.0) * shares[..., math : math + 1]
        vector = dot(shares, c.width**0.5 * self.intents.table[...], c.dtype)
        return known.prompted[..., None] * scale * vector

    def _share(self, planned, chance):
        """Return the share of a new plan against the last one, (..., 1)."""
        share = jnp.full_like(planned, 1.0 - self.config.plan_smoothing)
        if chance is not None:
            # As H-Net: an unsure boundary keeps part of the last plan, which gives p a gradient.
            share = share * jnp.maximum(chance, 0.5)
        return jnp.where(planned > 0, share, 1.0)[..., None]

    def _smoothed(self, state, plans, first, chance):
        """Return the plans (B, n, d) as used, smoothed along the chunks of a document."""
        if not self.config.plan_smoothing and chance is None:
            return plans

        def body(carry, inputs):
            last, planned = carry
            plan, first, chance = inputs
            planned = jnp.where(first, 0.0, planned)
            share = self._share(planned, chance)
            last = jnp.where(first[:, None], 0.0, last)
            last = share * plan + (1.0 - share) * last
            return (last, jnp.ones_like(planned)), last

        inputs = jax.tree.map(lambda x: x.swapaxes(0, 1), (plans, first, chance))
        return jax.lax.scan(body, (state.plan, state.planned), inputs)[1].swapaxes(0, 1)

    def _table(self, state, known: Known | None) -> Known:
        """Return what bytes can read: before the segment, after each chunk, in a fresh document."""
        start = jnp.zeros((self.config.width,), jnp.float32)
        if self.config.plan_from == "previous":
            start = self.start[...]
        start = jnp.broadcast_to(start[None], state.plan.shape)
        plan = jnp.where(state.planned[:, None] > 0, state.plan, start)
        before = Known(plan, state.context, state.prompted)
        parts = [jax.tree.map(lambda x: x[:, None], before)]
        if known is not None:
            fresh = Known(start, *map(jnp.zeros_like, (state.context, state.prompted)))
            parts += [known, jax.tree.map(lambda x: x[:, None], fresh)]
        return jax.tree.map(lambda *xs: jnp.concatenate(xs, 1), *parts)

    def _heads(self, known: Known) -> dict:
        """Return the heads that read the prompt: context (B, d), intent, answerable."""
        c = self.config
        conditioned = known.context + self._intent_vector(known)
        return {
            "context": known.context,
            "intent": self.intent(known.context, c.dtype),
            "answerable": self.answerable(conditioned, c.dtype)[..., 0],
        }

    def _attended(self, known, tokens, count, hold):
        """Return the source's context for every entry (B, n + 2, d)."""
        chunk = jnp.arange(known.plan.shape[1])[None]
        weights = ((chunk > 0) & (chunk <= count[:, None])).astype(jnp.float32)
        mean = jnp.sum(known.plan * weights[..., None], 1) / jnp.maximum(count, 1)[:, None]
        begins = jnp.cumsum((tokens == self.config.begin)[:, ::-1].astype(jnp.int32), 1)[:, ::-1]
        mask = (begins > 0) & (tokens != self.config.pad)
        mask = mask if hold is None else mask & ~hold
        values = jnp.arange(self.config.vocab_size, dtype=tokens.dtype)
        seen = mask[..., None] & (tokens[..., None] == values[None, None])
        counts = jnp.sum(seen, 1, dtype=jnp.float32)
        y = self.decoder.attend(mean, self._features(values), counts)
        return jnp.broadcast_to(y[:, None], known.context.shape)

    def _with_extras(self, out):
        """Add what the source's further losses read."""
        c = self.config
        if not c.extras:
            return out
        plans, answer = out.chunks.plan, response_of(out)
        pairs = jnp.stack([answer, jnp.roll(answer, 1, 0)], 1)
        prompt = jnp.broadcast_to(out.context[:, None], pairs.shape)
        return out.replace(
            latent=self.latent(plans[:, :-1], c.dtype),
            relevance=self.relevance(jnp.concatenate([prompt, pairs], -1), c.dtype)[..., 0],
        )

    @property
    def terms(self):
        """See `terms.py`."""
        return terms_of(self.config)

    @checked_batch
    def loss_sums(self, state, batch, key=None, progress=None):
        """See `Model.loss_sums`; optional fields intent and answerable, int (B,), -1 for none."""
        del progress
        state, out = self(state, batch["inputs"], batch.get("reset"), key)
        return state, term_sums(self.terms, out, batch)

    def trace(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Return arrays to plot for tokens int (T,).

        They are plan_norms (T,), stop, the chance (T,) that the response ends in this chunk, gates
        (T,), the refiner's mean gate, chunk_ends (T,), and log2_loss (T - 1,), bits per next byte.
        """
        tokens = jnp.asarray(tokens)[None]
        state = self.initial_state(1)
        _, out = self(state, tokens)
        norms = jnp.linalg.norm(out.chunks.plan[0], axis=-1)
        traced = {
            "plan_norms": of_bytes(norms, out.chunks.index[0]),
            "stop": jax.nn.sigmoid(out.stop[0]),
            "chunk_ends": out.ends.closes[0].astype(jnp.float32),
            "log2_loss": losses.token_nll(out.logits[0, :-1], tokens[0, 1:]) / jnp.log(2.0),
        }
        if out.chunks.gates is not None:
            traced["gates"] = of_bytes(out.chunks.gates[0].mean(-1), out.chunks.index[0])
        return traced
