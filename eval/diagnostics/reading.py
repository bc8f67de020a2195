"""A language model read in blocks: states, losses and answers from two compiled programs.

A large model takes longer to compile than to be asked, so everything goes through one call of
ROWS x BLOCK tokens and one of SPAN steps: rows come in multiples of ROWS, lengths of BLOCK. Other
sizes work, too, and are compiled as they come.

Works on anything that keeps the contract of a model (`initial_state`, a call with `reset`, `step`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.models.contract import traits_of
from jaxmodels.ops.losses import token_nll

ROWS = 32  # sequences side by side
BLOCK = 64  # tokens a device call
SPAN = 16  # tokens drawn a device call


@jax.jit
def _read_block(model, state, inputs, targets, reset):
    state, out = model(state, inputs, reset)
    return state, token_nll(out.logits, targets), out.logits[:, -1]


def read(model, state, tokens, reset=None):
    """int (B, T) -> (state, logits after the last token (B, vocab)). reset: bool (B, T) or None."""
    tokens = np.asarray(tokens, np.int32)
    state, _, logits = _blocks(model, state, tokens, np.zeros_like(tokens), reset)
    return state, logits


def token_losses(model, state, tokens, reset=None):
    """Nats paid for each token after the first: int (B, T + 1) -> (state, (B, T)).

    reset: bool (B, T) or None, for the tokens that are read (all but the last).
    """
    tokens = np.asarray(tokens, np.int32)
    return _blocks(model, state, tokens[:, :-1], tokens[:, 1:], reset)[:2]


def _blocks(model, state, inputs, targets, reset):
    reset = np.zeros(inputs.shape, bool) if reset is None else np.asarray(reset)
    losses, logits = [], None
    for start in range(0, inputs.shape[1], BLOCK):
        piece = (x[:, start : start + BLOCK] for x in (inputs, targets, reset))
        state, paid, logits = _read_block(model, state, *piece)
        losses.append(np.asarray(paid))
    return state, np.concatenate(losses, 1), logits


def first_reset(rows: int, length: int) -> np.ndarray:
    """bool (rows, length): a document starts at the first token."""
    return np.arange(length)[None] + np.zeros((rows, 1)) == 0


@jax.jit
def _step_span(model, state, logits, forced, allowed, temperature, key):
    def one(carry, inputs):
        state, logits = carry
        token, key = inputs
        noise = temperature * jax.random.gumbel(key, logits.shape)
        own = jnp.argmax(jnp.where(allowed[None], logits + noise, -jnp.inf), -1)
        token = jnp.where(token < 0, own.astype(token.dtype), token)
        state, out = model.step(state, token)
        return (state, out.logits), token

    inputs = (forced.T, jax.random.split(key, forced.shape[1]))
    (state, logits), tokens = jax.lax.scan(one, (state, logits), inputs)
    return state, logits, tokens.T


def continued(model, state, logits, forced, *, allowed=None, temperature=0.0, seed=0) -> np.ndarray:
    """What the model says, step by step: int32 (B, T), its own token wherever `forced` is -1.

    Args:
        logits: of the next token (B, vocab); only looked at if the first token is its own.
        forced: int (B, T), tokens to be read, or -1; each token of its own is read in turn.
        allowed: the tokens that it may choose from; None: all.
        temperature: of its choices; 0 takes the likeliest.
    """
    vocab = logits.shape[-1]
    mask = np.ones(vocab, bool) if allowed is None else np.isin(np.arange(vocab), allowed)
    rows, length = np.shape(forced)
    whole = np.full((rows, length + -length % SPAN), -1, np.int32)
    whole[:, :length] = forced
    said, heat = [], jnp.float32(temperature)
    for start in range(0, length, SPAN):
        key = jax.random.fold_in(jax.random.key(seed), start)
        span = whole[:, start : start + SPAN]
        state, logits, tokens = _step_span(model, state, logits, span, mask, heat, key)
        said.append(np.asarray(tokens))
    return np.concatenate(said, 1)[:, :length]


def recurrent_features(model, state) -> dict[str, np.ndarray]:
    """What a model carries, float32 (B, n) a component, without attention's keys and values.

    Components are rwkv, mamba and gla; "state" is all that a model carries which does not tell the
    kinds of its layers.
    """
    found: dict[str, list] = {}
    if kinds := traits_of(model).kinds:
        for index, kind in enumerate(kinds):
            layer = model.layer_state(state, index)
            if kind in ("hybrid", "rwkv", "mamba"):
                found.setdefault("rwkv", []).append(layer.rwkv)
                found.setdefault("mamba", []).append(layer.mamba)
            elif kind != "attention":
                found.setdefault(kind, []).append(layer)
    else:
        found["state"] = [state]
    leaves = {name: jax.tree.leaves(states) for name, states in found.items()}
    flat = {n: [np.asarray(x, np.float32) for x in xs] for n, xs in leaves.items() if xs}
    return {n: np.concatenate([x.reshape(len(x), -1) for x in xs], 1) for n, xs in flat.items()}


def excerpts(text, rows: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Random pieces of a text of tokens: int32 (rows, length). A short text is repeated."""
    text = np.asarray(text, np.int32)
    if len(text) < length:
        text = np.tile(text, -(-length // max(len(text), 1)))
    starts = rng.integers(0, len(text) - length + 1, rows)
    return text[starts[:, None] + np.arange(length)[None]]
