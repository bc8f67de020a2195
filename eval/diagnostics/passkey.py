"""Passkey recall: a key in running text, recalled later by the model and by probes on its state.

    ... noise | The key is 31415 | noise, `distance` tokens | The key is ?????

The question repeats the phrase before the key, so that a plain language model can answer by
continuing the text. Lengths are in tokens. Each of the five symbols is one of ten: chance is 1 in
10 for a symbol and 1 in 100,000 for a key. See docs/systems.md, G-63, G-66 and G-67.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from eval.diagnostics.linear import Decoded, decode_parts
from eval.diagnostics.reading import (
    BLOCK,
    ROWS,
    excerpts,
    first_reset,
    generate,
    read,
    recurrent_features,
)
from jaxmodels.errors import UserError

PHRASE = "The key is "
ALPHABETS = ("0123456789", "abcdefghij", "ABCDEFGHIJ")
CHANCE = 0.1


@dataclasses.dataclass(frozen=True)
class Passkey:
    """Generator of passkey prompts for a tokenizer.

    Attributes:
        symbols: int32 (10,), the tokens that keys consist of.
        shown: the symbols as text.
        phrase: int32, the tokens before the key, repeated as the question.
        noise: int32, filler text that the model was not trained on.
        digits: symbols per key.
    """

    symbols: np.ndarray
    shown: str
    phrase: np.ndarray
    noise: np.ndarray
    digits: int = 5

    def prompts(self, distance: int, rows: int, seed: tuple[int, ...]):
        """Return tokens int32 (rows, time) without the question, and keys (rows, digits).

        Keys are indices into `symbols`. Noise before the phrase pads to a multiple of BLOCK.
        """
        rng = np.random.default_rng((*seed, distance))
        keys = rng.integers(0, len(self.symbols), (rows, self.digits))
        body = len(self.phrase) + self.digits + distance
        text = excerpts(self.noise, rows, body + -body % BLOCK, rng)
        mark = text.shape[1] - body
        text[:, mark : mark + len(self.phrase)] = self.phrase
        mark += len(self.phrase)
        text[:, mark : mark + self.digits] = self.symbols[keys]
        return text, keys


def passkey_of(tokenizer, noise) -> Passkey:
    """Choose the symbols: digits or letters of the vocabulary, or else its last ten tokens.

    Raises:
        UserError: a vocabulary of fewer than 12 tokens.
    """
    if tokenizer.vocab_size < 12:
        raise UserError(
            f"passkey: the vocabulary must have at least 12 tokens, got {tokenizer.vocab_size}"
        )
    phrase = np.asarray(tokenizer.encode(PHRASE), np.int32)
    for alphabet in ALPHABETS:
        tokens = [np.asarray(tokenizer.encode(symbol)) for symbol in alphabet]
        whole = all(len(t) == 1 for t in tokens)
        if whole and [tokenizer.decode(t) for t in tokens] == list(alphabet):
            return Passkey(np.concatenate(tokens).astype(np.int32), alphabet, phrase, noise)
    last = np.arange(tokenizer.vocab_size - 10, tokenizer.vocab_size, dtype=np.int32)
    return Passkey(last, "the last ten tokens", phrase, noise)


@dataclasses.dataclass(frozen=True)
class Recall:
    """Recall at one distance.

    Attributes:
        distance: tokens between key and question.
        correct, asked: number of correct and of all symbols.
        whole: fraction of keys with every symbol correct.
        decoded: component -> linear probe on its state just before the question.
    """

    distance: int
    correct: int
    asked: int
    whole: float
    decoded: Mapping[str, Decoded]

    @property
    def accuracy(self) -> float:
        """Fraction of correct symbols."""
        return self.correct / self.asked

    @property
    def best(self) -> Decoded | None:
        """The probe on the whole recurrent state; None without one."""
        return next(reversed(self.decoded.values()), None)


def recall(model, passkey: Passkey, distance: int, *, rows: int = 480) -> Recall:
    """Measure recall of the model, and of linear probes on its recurrent state, at one distance.

    rows: number of keys, rounded up to a multiple of ROWS.
    """
    groups = [
        _ask(model, passkey, *passkey.prompts(distance, ROWS, (0, group)))
        for group in range(-(-rows // ROWS))
    ]
    right, features, keys = zip(*groups, strict=True)
    parts = {name: np.concatenate([f[name] for f in features]) for name in features[0]}
    right, keys = np.concatenate(right), np.concatenate(keys)
    decoded = decode_parts(parts, keys)
    return Recall(distance, int(right.sum()), right.size, float(right.all(1).mean()), decoded)


def _ask(model, passkey, text, keys):
    """Return (correct bool (rows, digits), features before the question, keys)."""
    state, logits = read(model, model.initial_state(len(text)), text)
    question = np.full((len(text), len(passkey.phrase) + passkey.digits), -1)
    question[:, : len(passkey.phrase)] = passkey.phrase
    tokens = generate(model, state, logits, question, allowed=passkey.symbols)
    right = tokens[:, -passkey.digits :] == passkey.symbols[keys]
    return right, recurrent_features(model, state), keys


def persistence(distances, accuracies) -> float:
    """Return tau, the interpolated distance at which accuracy falls below 1/2 (G-66).

    0 if it starts below, infinity if it never falls below.
    """
    pairs = list(zip(distances, accuracies, strict=True))
    if pairs[0][1] < 0.5:
        return 0.0
    for (near, before), (far, after) in itertools.pairwise(pairs):
        if after < 0.5:
            return float(near + (far - near) * (before - 0.5) / (before - after))
    return math.inf


def forgetting(model, passkey: Passkey, distance: int = 16) -> dict[str, float]:
    """Read ROWS documents with a key, then new documents that ask for it (G-67).

    Returns:
        retained: accuracy of the answers within the document.
        leakage: excess probability of the old key's first symbol when a new document, with a
            reset, asks for it: (p - p_fresh) / (1 - p_fresh), from 0 to 1.
        unaided: leakage without the reset.
        eta: retained x (1 - leakage).
    """
    text, keys = passkey.prompts(distance, ROWS, (1,))
    retained = float(_ask(model, passkey, text, keys)[0].mean())
    # The new document is a block that ends with the question.
    fresh_text = excerpts(passkey.noise, ROWS, BLOCK, np.random.default_rng(1))
    fresh_text[:, -len(passkey.phrase) :] = passkey.phrase
    start = first_reset(ROWS, BLOCK)
    state, _ = read(model, model.initial_state(ROWS), text)
    symbol = passkey.symbols[keys[:, :1]]

    def mass(state, reset):
        _, logits = read(model, state, fresh_text, reset)
        return np.asarray(jnp.take_along_axis(jax.nn.softmax(logits, -1), symbol, -1), np.float64)

    fresh = mass(model.initial_state(ROWS), start)
    leakage, unaided = (mean_leakage(mass(state, reset), fresh) for reset in (start, None))
    eta = retained * (1.0 - leakage)
    return {"retained": retained, "leakage": leakage, "unaided": unaided, "eta": eta}


def mean_leakage(p, fresh) -> float:
    """Return the mean of (p - fresh) / (1 - fresh), at least 0.

    Single rows may be negative: clipping these would turn differences of either sign into leakage.
    """
    return max(float(((p - fresh) / np.maximum(1.0 - fresh, 1e-12)).mean()), 0.0)
