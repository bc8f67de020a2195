"""Reading and generation in blocks with two compiled programs.

Compilation dominates the cost, so all diagnostics use one program for ROWS x BLOCK tokens and one
for SPAN steps; other shapes trigger a new compilation. Works with any model that has
`initial_state`, `__call__` with `reset`, and `step`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.models.contract import traits_of
from jaxmodels.ops.losses import token_nll

ROWS = 32  # batch size
BLOCK = 64  # tokens read per device call
SPAN = 16  # tokens generated per device call


@jax.jit
def _read_block(model, state, inputs, targets, reset):
    state, out = model(state, inputs, reset)
    return state, token_nll(out.logits, targets), out.logits[:, -1]


def read(model, state, tokens, reset=None):
    """Read tokens int (B, T); return (state, logits after the last token (B, vocab)).

    reset: bool (B, T) or None.
    """
    tokens = np.asarray(tokens, np.int32)
    state, _, logits = _blocks(model, state, tokens, np.zeros_like(tokens), reset)
    return state, logits


def token_losses(model, state, tokens, reset=None):
    """Return (state, loss in nats of each token after the first (B, T)) of tokens int (B, T + 1).

    reset: bool (B, T) or None, for all tokens but the last.
    """
    tokens = np.asarray(tokens, np.int32)
    return _blocks(model, state, tokens[:, :-1], tokens[:, 1:], reset)[:2]


def _blocks(model, state, inputs, targets, reset):
    reset = np.zeros(inputs.shape, bool) if reset is None else np.asarray(reset)
    losses, logits = [], None
    for start in range(0, inputs.shape[1], BLOCK):
        piece = (x[:, start : start + BLOCK] for x in (inputs, targets, reset))
        state, loss, logits = _read_block(model, state, *piece)
        losses.append(np.asarray(loss))
    return state, np.concatenate(losses, 1), logits


def first_reset(rows: int, length: int) -> np.ndarray:
    """Return resets bool (rows, length) at the first token only."""
    return np.arange(length)[None] + np.zeros((rows, 1)) == 0


@jax.jit
def _step_span(model, state, logits, forced, allowed, temperature, key):
    def body(carry, inputs):
        state, logits = carry
        token, key = inputs
        noise = temperature * jax.random.gumbel(key, logits.shape)
        drawn = jnp.argmax(jnp.where(allowed[None], logits + noise, -jnp.inf), -1)
        token = jnp.where(token < 0, drawn.astype(token.dtype), token)
        state, out = model.step(state, token)
        return (state, out.logits), token

    inputs = (forced.T, jax.random.split(key, forced.shape[1]))
    (state, logits), tokens = jax.lax.scan(body, (state, logits), inputs)
    return state, logits, tokens.T


def generate(model, state, logits, forced, *, allowed=None, temperature=0.0, seed=0) -> np.ndarray:
    """Generate tokens int32 (B, T), sampled wherever `forced` is -1.

    Args:
        model, state: the model and its state.
        logits: logits of the first token (B, vocab).
        forced: int (B, T), given tokens or -1.
        allowed: tokens to sample from; None = all.
        temperature: sampling temperature; 0 selects the most likely token.
        seed: seed of the samples.
    """
    vocab = logits.shape[-1]
    mask = np.ones(vocab, bool) if allowed is None else np.isin(np.arange(vocab), allowed)
    rows, length = np.shape(forced)
    whole = np.full((rows, length + -length % SPAN), -1, np.int32)
    whole[:, :length] = forced
    spans, temperature = [], jnp.float32(temperature)
    for start in range(0, length, SPAN):
        key = jax.random.fold_in(jax.random.key(seed), start)
        span = whole[:, start : start + SPAN]
        state, logits, tokens = _step_span(model, state, logits, span, mask, temperature, key)
        spans.append(np.asarray(tokens))
    return np.concatenate(spans, 1)[:, :length]


def recurrent_features(model, state) -> dict[str, np.ndarray]:
    """Return component -> recurrent state float32 (B, n), without attention caches.

    Components are rwkv, mamba and gla, or "state" for a model without layer kinds.
    """
    components: dict[str, list] = {}
    if kinds := traits_of(model).kinds:
        for index, kind in enumerate(kinds):
            layer = model.layer_state(state, index)
            if kind in ("hybrid", "rwkv", "mamba"):
                components.setdefault("rwkv", []).append(layer.rwkv)
                components.setdefault("mamba", []).append(layer.mamba)
            elif kind != "attention":
                components.setdefault(kind, []).append(layer)
    else:
        components["state"] = [state]
    leaves = {name: jax.tree.leaves(states) for name, states in components.items()}
    flat = {n: [np.asarray(x, np.float32) for x in xs] for n, xs in leaves.items() if xs}
    return {n: np.concatenate([x.reshape(len(x), -1) for x in xs], 1) for n, xs in flat.items()}


def excerpts(text, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw random excerpts int32 (rows, length) of a token sequence; a short one is repeated."""
    text = np.asarray(text, np.int32)
    if len(text) < length:
        text = np.tile(text, -(-length // max(len(text), 1)))
    starts = rng.integers(0, len(text) - length + 1, rows)
    return text[starts[:, None] + np.arange(length)[None]]
