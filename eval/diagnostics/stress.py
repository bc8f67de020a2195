"""A state that is shaken, and a state that is poisoned (SYSTEMS G-67, G-71)."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from eval.diagnostics.reading import ROWS, excerpts, first_reset, read, token_losses


def shaken(state, seed: int, size: float):
    """Noise of `size` times the root mean square of each array of a state.

    Counters (a number a layer and sequence, or a number a sequence) are left as they are.
    """
    rng, several = np.random.default_rng(seed), len(jax.tree.leaves(state)) > 1

    def one(x):
        x = np.asarray(x)
        if x.ndim < 3 and several:
            return x  # a shaken count of tokens is no count
        scale = np.sqrt(np.mean(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))
        return x + np.float32(size) * scale * rng.standard_normal(x.shape, np.float32)

    return jax.tree.map(one, state)


def jitter(model, tokens, sizes=(0.01, 0.1, 1.0), seed: int = 0) -> dict[str, float]:
    """Rise of the loss, nats a token, on the second half of texts after noise on the state.

    tokens: int (B, T + 1). The noise is as large as `shaken` says; a model whose loss does not rise
    at 1.0 makes no use of its state.

    Returns:
        {"0.01": rise, ...}.
    """
    half = np.shape(tokens)[1] // 2
    state, _ = read(model, model.initial_state(len(tokens)), tokens[:, :half])
    rest = tokens[:, half:]
    loss = token_losses(model, state, rest)[1].mean()
    found = {}
    for size in sizes:
        moved = shaken(state, seed, size)
        found[f"{size:g}"] = float(token_losses(model, moved, rest)[1].mean() - loss)
    return found


@dataclasses.dataclass(frozen=True)
class Poisoning:
    """What a hostile prefix does to the text after it (G-71). Nats a token.

    Attributes:
        clean: loss on clean text from a fresh state.
        excess: kind of prefix -> what it adds.
        late: the same over the last quarter of the clean text: what stays.
        after_reset: kind -> largest change at any token with a reset between the two; 0 if resets
            are exact.
        worst: the kind of prefix that adds most.
    """

    clean: float
    excess: Mapping[str, float]
    late: Mapping[str, float]
    after_reset: Mapping[str, float]
    worst: str


def poisoning(
    model, text, vocab_size: int, *, rows: int = ROWS, prefix: int = 128, length: int = 129, seed=0
) -> Poisoning:
    """Reads prefixes, then clean excerpts of `text`, with and without a reset between them.

    Prefixes: "noise" (random tokens), "repeat" (one token over and over, another in each row),
    "searched" (the row of noise that harms most, before every excerpt), "text" (another excerpt:
    what an honest document does).
    """
    rng = np.random.default_rng(seed)
    clean = excerpts(text, rows, length, rng)
    noise = rng.integers(0, vocab_size, (rows, prefix))
    prefixes = {
        "text": excerpts(text, rows, prefix, rng),
        "noise": noise,
        "repeat": np.repeat(rng.integers(0, vocab_size, (rows, 1)), prefix, 1),
    }
    start = first_reset(rows, length - 1)
    base = token_losses(model, model.initial_state(rows), clean, start)[1]
    losses, again = {}, {}

    def measure(name):
        state, _ = read(model, model.initial_state(rows), prefixes[name])
        losses[name] = token_losses(model, state, clean)[1]
        again[name] = token_losses(model, state, clean, start)[1]

    for name in tuple(prefixes):
        measure(name)
    harm = (losses["noise"] - base).mean(1)
    prefixes["searched"] = np.repeat(noise[harm.argmax()][None], rows, 0)
    measure("searched")
    last = base.shape[1] // 4
    excess = {name: float((x - base).mean()) for name, x in losses.items()}
    return Poisoning(
        clean=float(base.mean()),
        excess=excess,
        late={name: float((x - base)[:, -last:].mean()) for name, x in losses.items()},
        after_reset={name: float(np.abs(x - base).max()) for name, x in again.items()},
        worst=max(excess, key=excess.get),
    )
