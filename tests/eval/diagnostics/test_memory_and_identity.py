"""Memory and identity diagnostics on a model with a known memory: a window of 64 tokens."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.diagnostics import passkey, persona, reading, stress
from jaxmodels.data import ByteTokenizer, CharTokenizer, WordTokenizer
from jaxmodels.errors import UserError
from tests.eval.recalling import Recalling
from tests.eval.tiny_bytes import Toy

LETTERS = " .\nThe keyisabcdfghj"
TOKENIZER = CharTokenizer("".join(sorted(set(LETTERS))))
WINDOW = 64


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(3)
    return rng.integers(32, TOKENIZER.vocab_size, 4000).astype(np.int32)


@pytest.fixture(scope="module")
def key(noise):
    """In noise of few tokens, so that a probe of few examples is not lost in what else varies."""
    return passkey.passkey_of(TOKENIZER, noise // 8 * 8)


@pytest.fixture(scope="module")
def model():
    return Recalling(TOKENIZER.vocab_size, WINDOW)


def test_read_in_blocks_equals_one_call():
    model, tokens = Toy(), np.random.default_rng(0).integers(0, 256, (2, 151))
    reset = np.zeros((2, 150), bool)
    reset[1, 70] = True
    state, out = model(model.initial_state(2), jnp.asarray(tokens[:, :-1]), jnp.asarray(reset))
    after, losses = reading.token_losses(model, model.initial_state(2), tokens, reset)
    log_p = jax.nn.log_softmax(out.logits, -1)
    expected = -jnp.take_along_axis(log_p, jnp.asarray(tokens[:, 1:, None]), -1)[..., 0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(after["h"], state["h"], rtol=1e-5)
    _, last = reading.read(model, model.initial_state(2), tokens[:, :-1], reset)
    np.testing.assert_allclose(last, out.logits[:, -1], rtol=1e-5)


def test_generate_equals_stepping():
    model = Toy()
    forced = np.array([[65, 66, -1, -1, 67, -1] + [-1] * 14, [70, -1, 71, -1, -1, -1] + [-1] * 14])
    logits = jnp.zeros((2, 256))
    tokens = reading.generate(model, model.initial_state(2), logits, forced)
    assert tokens.shape == (2, 20) and (tokens[forced >= 0] == forced[forced >= 0]).all()
    _, out = model(model.initial_state(2), jnp.asarray(tokens))
    argmax = np.asarray(out.logits.argmax(-1))[:, :-1]
    own = forced[:, 1:] < 0
    np.testing.assert_array_equal(tokens[:, 1:][own], argmax[own])
    few = reading.generate(model, model.initial_state(2), logits, forced, allowed=[7, 9])
    assert set(few[forced < 0]) <= {7, 9}
    hot = [
        reading.generate(model, model.initial_state(2), logits, forced, temperature=2.0, seed=s)
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(hot[0], hot[1])
    assert (hot[0] != hot[2]).any() and (hot[0][:, 1:] != tokens[:, 1:]).any()


def test_recurrent_features_exclude_attention():
    class Kinds:
        kinds = ("hybrid", "attention", "gla", "mamba")

        def layer_state(self, state, index):
            return state[index]

    def ones(*shape):
        return np.ones((2, *shape))

    hybrid = types.SimpleNamespace(rwkv=[ones(3, 4), ones(5)], mamba=[ones(6)])
    alone = types.SimpleNamespace(rwkv=(), mamba=[ones(1)])
    state = [hybrid, {"keys": ones(7)}, {"gla": ones(2, 2)}, alone]
    found = reading.recurrent_features(Kinds(), state)
    assert {name: x.shape for name, x in found.items()} == {
        "rwkv": (2, 17),
        "mamba": (2, 7),
        "gla": (2, 4),
    }
    Kinds.kinds = ("attention",)
    assert reading.recurrent_features(Kinds(), state[1:]) == {}
    whole = reading.recurrent_features(object(), {"a": ones(3), "b": ones(2, 2)})
    assert whole["state"].shape == (2, 7)


def test_prompts_contain_the_key_once_at_the_distance(key):
    text, keys = key.prompts(37, 5, seed=(0,))
    assert text.shape[1] % reading.BLOCK == 0
    for row, answer in zip(text, keys, strict=True):
        at = text.shape[1] - 37 - 5
        np.testing.assert_array_equal(row[at : at + 5], key.symbols[answer])
        np.testing.assert_array_equal(row[at - len(key.phrase) : at], key.phrase)
    again, _ = key.prompts(37, 5, seed=(0,))
    np.testing.assert_array_equal(text, again)
    assert (key.prompts(37, 5, seed=(1,))[1] != keys).any()


def test_symbols_are_chosen_from_the_vocabulary(noise):
    assert passkey.passkey_of(ByteTokenizer(), noise).shown == "0123456789"
    assert passkey.passkey_of(CharTokenizer("abcdefghijk"), noise).shown == "abcdefghij"
    words = WordTokenizer(("<pad>", "<unk>", *(f"w{i}" for i in range(15))))
    found = passkey.passkey_of(words, noise)
    np.testing.assert_array_equal(found.symbols, np.arange(7, 17))
    few = WordTokenizer(("<pad>", "<unk>", "a"))
    with pytest.raises(UserError, match="at least 12 tokens"):
        passkey.passkey_of(few, noise)


@pytest.fixture(scope="module")
def recalls(model, key):
    return {d: passkey.recall(model, key, d, rows=150) for d in (0, 30, 80)}


def test_recall_is_limited_by_the_window(recalls):
    near, middle, far = recalls.values()
    assert near.accuracy > 0.99 and near.whole > 0.98 and near.asked == 160 * 5
    assert middle.accuracy > 0.95
    assert abs(far.accuracy - passkey.CHANCE) < 0.06 and far.whole == 0.0
    assert near.best.accuracy > 0.9 and middle.best.accuracy > 0.9
    assert far.best.accuracy < 0.2 and far.best.asked == 53 * 5


def test_persistence_interpolates(recalls):
    tau = passkey.persistence(recalls, [r.accuracy for r in recalls.values()])
    assert 30 < tau < 80
    assert passkey.persistence([0, 10, 20], [1.0, 0.75, 0.25]) == pytest.approx(15.0)
    assert passkey.persistence([0, 10, 20], [1.0, 0.5, 0.0]) == pytest.approx(10.0)
    assert passkey.persistence([0, 10], [0.9, 0.6]) == math.inf
    assert passkey.persistence([0, 10], [0.4, 0.9]) == 0.0


def test_eta_decreases_with_leakage(model, key):
    long = 3 * WINDOW  # the new document is a block
    sound = passkey.forgetting(Recalling(model.vocab, long), key)
    assert sound["retained"] > 0.99 and sound["leakage"] == 0.0
    assert sound["eta"] == sound["retained"] and sound["unaided"] > 0.9
    leaky = passkey.forgetting(Recalling(model.vocab, long, deaf=True), key)
    assert leaky["leakage"] > 0.9 and leaky["eta"] < 0.1


def test_leakage_of_noise_is_none():
    """Chances that differ from those of a fresh start in either direction are no leakage."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((4000, 1))
    assert passkey.mean_leakage(0.5 + noise, np.full_like(noise, 0.5)) < 0.01
    assert passkey.mean_leakage(0.25 - np.abs(noise), np.full_like(noise, 0.25)) == 0.0
    assert passkey.mean_leakage(np.float64([1.0, 0.5]), np.float64([0.5, 0.5])) == 0.5


def test_jitter_increases_with_the_noise(noise):
    model, tokens = Toy(), np.random.default_rng(0).integers(0, 256, (4, 41))
    rises = stress.jitter(model, tokens, sizes=(0.0, 0.01, 1.0))
    assert rises["0"] == 0.0 and abs(rises["0.01"]) < 0.1 * abs(rises["1"])
    state = {"wkv": jnp.ones((2, 3, 4)), "count": jnp.ones((2, 3))}
    moved = stress.add_noise(state, 0, 0.5)
    np.testing.assert_array_equal(moved["count"], 1.0)
    assert 0.3 < float((moved["wkv"] - 1.0).std()) < 0.7


def test_poisoning_ends_at_the_reset(model, noise):
    few, sizes = noise % 3, dict(rows=6, prefix=50, length=33)  # what three tokens do, recurs
    sharp = stress.poisoning(model, few, 3, **sizes)
    assert sharp["after_reset"] == dict.fromkeys(("text", "noise", "repeat", "searched"), 0.0)
    assert sharp["excess"]["searched"] >= sharp["excess"]["noise"] != 0.0
    assert sharp["worst"] in sharp["excess"] and sharp["clean"] > 0
    deaf = Recalling(model.vocab, WINDOW, deaf=True)
    leaks = stress.poisoning(deaf, few, 3, **sizes)["after_reset"]
    assert max(leaks.values()) > 0.01


def test_persona_score_is_matches_over_words():
    assert persona.persona_score("My sword, my Lord! And tea.", "Knight") == pytest.approx(2 / 6)
    assert persona.persona_score("My sword, my Lord! And tea.", "Pirate") == 0.0
    assert persona.persona_score(" -- ", "Knight") == 0.0


def test_log_probabilities_match_the_full_forward_pass():
    model, tokenizer = Toy(), ByteTokenizer()
    tokens = jnp.asarray(tokenizer.encode("\n" * (65 - 5) + "abcde"), jnp.int32)[None]
    _, out = model(model.initial_state(1), tokens)
    log_p = jax.nn.log_softmax(out.logits[0], -1)
    expected = sum(log_p[61 + i, ord(c)] for i, c in enumerate("cde"))
    found = persona.log_probabilities(model, tokenizer, ["ab", "x" * 40], ["cde", "y"])
    assert found[0] == pytest.approx(float(expected), rel=1e-5)


class Listening:
    """Stub of `log_probabilities`: an answer is likely if the prompt contains it."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, model, tokenizer, prompts, answers):
        pairs = zip(prompts, answers, strict=True)
        named = [answer.lower() in prompt.lower() for prompt, answer in pairs]
        return self.weight * np.array(named, np.float64)


def test_persona_lock_is_zero_without_influence(monkeypatch):
    monkeypatch.setattr(persona, "log_probabilities", Listening(0.0))
    assert persona.persona_lock(None, None) == {"Knight": 0.0, "Scientist": 0.0, "Pirate": 0.0}
    monkeypatch.setattr(persona, "log_probabilities", Listening(2.0))
    locks = persona.persona_lock(None, None)
    # Of the words, "lord" and "armour", "captain", "ship" and "sea" stand in the descriptions.
    assert locks["Knight"] > 0.3 and locks["Pirate"] > 0.3 and locks["Scientist"] <= 0.1


def test_choices_and_anchor_items(monkeypatch, noise):
    items = [("the box: ", "box", "bag"), ("the bag: ", "box", "bag")]
    monkeypatch.setattr(persona, "log_probabilities", Listening(1.0))
    assert persona.choices(None, None, items) == 0.5
    for kind in (persona.TRACKING, persona.COUNTERFACT):
        answers = [right for _, right, _ in kind]
        assert sorted(answers) == sorted(wrong for _, _, wrong in kind)  # no word wins by itself
    gap = persona.anchor_items(TOKENIZER, noise, tokens=500)
    for name, (text, right, wrong) in zip(persona.ANCHORS, gap, strict=True):
        assert text.startswith(f"My name is {name}.") and text.endswith("My name is ")
        assert right == name != wrong and 500 <= len(text) <= 540


def test_identity_suite_runs():
    model = Toy()
    found = persona.identity_suite(model, ByteTokenizer(), np.arange(32, 127), tokens=20)
    assert found["rubric"].keys() == found["persona_lock"].keys() == persona.PERSONAS.keys()
    for name in ("object_tracking", "counterfact", "long_anchor"):
        assert 0.0 <= found[name] <= 1.0 and found["items"][name] >= 4


def test_mode_collapse_flags():
    table, flat = np.full((10, 4), 0.5), np.full((3, 10), 0.1)
    sound = persona.mode_collapse(table, flat, "one two three four")
    assert sound["flags"] == [] and sound["embedding_rms"] == 0.5
    assert sound["confidence_ratio"] == pytest.approx(0.1 / math.log(10))
    assert persona.mode_collapse(table * 20, flat, "a b")["flags"] == ["embedding norm"]
    sure = np.eye(10)[:3] * 0.97 + 0.003
    assert persona.mode_collapse(table, sure, "a b")["flags"] == ["one token dominates"]
    assert persona.mode_collapse(table, flat, "the " * 10)["flags"] == ["repetition"]
    assert sound["distinct_words"] == 1.0
