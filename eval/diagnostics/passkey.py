"""A key in running text, asked for later: what a language model recalls, and what its state holds.

    ... noise | The key is 31415 | noise, `distance` tokens | The key is ?????

The notes' passkey (2.10) for a model of natural text: the question is the phrase that came before
the key, so that a model which continues text as it has gone on before can answer. The answer is
never in the text after the key, lengths are tokens, and each of the five places has ten answers to
choose from: a guess is right one time in ten, a whole key one time in 100,000. (SYSTEMS G-63, G-66,
G-67, 9.3.)
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
    continued,
    excerpts,
    first_reset,
    read,
    recurrent_features,
)
from jaxmodels.errors import UserError

PHRASE = "The key is "
ALPHABETS = ("0123456789", "abcdefghij", "ABCDEFGHIJ")
CHANCE = 0.1


@dataclasses.dataclass(frozen=True)
class Passkey:
    """How keys are hidden in the tokens of a model.

    Attributes:
        symbols: int32 (10,), the tokens of which keys are made.
        shown: what they look like.
        phrase: int32, the tokens before the key, and again as the question.
        noise: int32, a text to fill with; a text that the model was not trained on.
        digits: symbols a key.
    """

    symbols: np.ndarray
    shown: str
    phrase: np.ndarray
    noise: np.ndarray
    digits: int = 5

    def prompts(self, distance: int, rows: int, seed: tuple[int, ...]):
        """-> (int32 (rows, time), without the question; keys (rows, digits), indices of symbols).

        Noise before the phrase fills up to whole blocks.
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
    """Keys of digits if the vocabulary has them, else of letters, else of its last ten tokens.

    Raises:
        UserError: a vocabulary of fewer than 12 tokens.
    """
    if tokenizer.vocab_size < 12:
        raise UserError(f"passkey: a vocabulary of {tokenizer.vocab_size} tokens; 12 are needed")
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
    """What was found at one distance.

    Attributes:
        distance: tokens between key and question.
        correct, asked: symbols that the model answered right, of all.
        whole: share of the keys that were right in every symbol.
        decoded: component -> the linear probe on its state just before the question.
    """

    distance: int
    correct: int
    asked: int
    whole: float
    decoded: Mapping[str, Decoded]

    @property
    def accuracy(self) -> float:
        """Share of the symbols that were right."""
        return self.correct / self.asked

    @property
    def best(self) -> Decoded | None:
        """The probe on everything recurrent; None if nothing is."""
        return next(reversed(self.decoded.values()), None)


def recall(model, passkey: Passkey, distance: int, *, rows: int = 480, seed: int = 0) -> Recall:
    """Answers of the model, and of linear probes on its recurrent state, at one distance.

    rows: keys, rounded up to whole groups of ROWS.
    """
    groups = [
        _asked(model, passkey, *passkey.prompts(distance, ROWS, (seed, group)))
        for group in range(-(-rows // ROWS))
    ]
    right, features, keys = zip(*groups, strict=True)
    parts = {name: np.concatenate([f[name] for f in features]) for name in features[0]}
    right, keys = np.concatenate(right), np.concatenate(keys)
    decoded = decode_parts(parts, keys)
    return Recall(distance, int(right.sum()), right.size, float(right.all(1).mean()), decoded)


def _asked(model, passkey, text, keys):
    """-> (right answers bool (rows, digits), features before the question, keys)."""
    state, logits = read(model, model.initial_state(len(text)), text)
    question = np.full((len(text), len(passkey.phrase) + passkey.digits), -1)
    question[:, : len(passkey.phrase)] = passkey.phrase
    said = continued(model, state, logits, question, allowed=passkey.symbols)
    right = said[:, -passkey.digits :] == passkey.symbols[keys]
    return right, recurrent_features(model, state), keys


def persistence(distances, accuracies, level: float = 0.5) -> float:
    """tau: the distance at which accuracy first falls through `level`, interpolated (G-66).

    0 if it starts below, infinity if it never falls below.
    """
    pairs = list(zip(distances, accuracies, strict=True))
    if pairs[0][1] < level:
        return 0.0
    for (near, before), (far, after) in itertools.pairwise(pairs):
        if after < level:
            return float(near + (far - near) * (before - level) / (before - after))
    return math.inf


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """Does the model drop a document that has ended, and nothing else? (G-67)

    Attributes:
        retained: accuracy of its answers while the document goes on.
        leakage: how much likelier than for a fresh model the old key is when a new document asks,
            the reset given: (p - p_fresh) / (1 - p_fresh), from 0 to 1.
        unaided: the same without the reset: what the model does not forget by itself.
        eta: retained x (1 - leakage).
    """

    retained: float
    leakage: float
    unaided: float
    eta: float


def forgetting(model, passkey: Passkey, distance: int = 16, *, seed: int = 1) -> Forgetting:
    """Reads documents with a key, then new ones that ask for it (ROWS of each)."""
    text, keys = passkey.prompts(distance, ROWS, (seed,))
    retained = float(_asked(model, passkey, text, keys)[0].mean())
    # The new document is a block that ends in the question.
    rng = np.random.default_rng(seed)
    fresh_text = excerpts(passkey.noise, ROWS, BLOCK, rng)
    fresh_text[:, -len(passkey.phrase) :] = passkey.phrase
    start = first_reset(ROWS, BLOCK)
    state, _ = read(model, model.initial_state(ROWS), text)
    wanted = passkey.symbols[keys[:, :1]]

    def mass(state, reset):
        _, logits = read(model, state, fresh_text, reset)
        return np.asarray(jnp.take_along_axis(jax.nn.softmax(logits, -1), wanted, -1), np.float64)

    fresh = mass(model.initial_state(ROWS), start)
    leakage, unaided = (_leakage(mass(state, reset), fresh) for reset in (start, None))
    return Forgetting(retained, leakage, unaided, retained * (1.0 - leakage))


def _leakage(p, fresh) -> float:
    return float(np.clip((p - fresh) / np.maximum(1.0 - fresh, 1e-12), 0.0, 1.0).mean())
