"""Stress tests: noise on the state, and hostile prefixes (docs/systems.md, G-67, G-71)."""

import jax
import numpy as np

from eval.diagnostics.reading import ROWS, excerpts, first_reset, read, token_losses


def add_noise(state, seed: int, size: float):
    """Add Gaussian noise of `size` times the root mean square of each array of a state.

    Counters (one number per layer and sequence, or per sequence) are not changed.
    """
    rng, several = np.random.default_rng(seed), len(jax.tree.leaves(state)) > 1

    def perturb(x):
        x = np.asarray(x)
        if x.ndim < 3 and several:
            return x
        scale = np.sqrt(np.mean(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))
        return x + np.float32(size) * scale * rng.standard_normal(x.shape, np.float32)

    return jax.tree.map(perturb, state)


def jitter(model, tokens, sizes=(0.01, 0.1, 1.0)) -> dict[str, float]:
    """Measure the increase of the loss on the second half of texts after noise on the state.

    tokens: int (B, T + 1). Returns size of the noise (see `add_noise`), e.g. "0.01" -> increase in
    nats per token. A model whose loss does not increase at 1.0 makes no use of its state.
    """
    half = np.shape(tokens)[1] // 2
    state, _ = read(model, model.initial_state(len(tokens)), tokens[:, :half])
    rest = tokens[:, half:]
    loss = token_losses(model, state, rest)[1].mean()
    rises = {}
    for size in sizes:
        noisy = add_noise(state, 0, size)
        rises[f"{size:g}"] = float(token_losses(model, noisy, rest)[1].mean() - loss)
    return rises


def poisoning(
    model, text, vocab_size: int, *, rows: int = ROWS, prefix: int = 128, length: int = 129, seed=0
) -> dict:
    """Read hostile prefixes, then excerpts of `text`, with and without a reset between (G-71).

    Prefixes: "noise" (random tokens), "repeat" (one token per row, repeated), "searched" (the row
    of noise with the largest increase), "text" (another excerpt, as a control).

    Returns, in nats per token:
        clean: loss on clean text from the initial state.
        excess: kind of prefix -> increase of the loss.
        late: kind -> increase over the last quarter of the clean text.
        after_reset: kind -> largest change at any token with a reset in between; 0 if resets are
            exact.
        worst: kind of prefix with the largest increase.
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
    return {
        "clean": float(base.mean()),
        "excess": excess,
        "late": {name: float((x - base)[:, -last:].mean()) for name, x in losses.items()},
        "after_reset": {name: float(np.abs(x - base).max()) for name, x in again.items()},
        "worst": max(excess, key=excess.get),
    }
