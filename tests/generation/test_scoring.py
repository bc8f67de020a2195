"""Scores of continuations equal those of a plain loop, and a shared context is read once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.generation import scoring
from jaxmodels.generation.scoring import Scorer
from tests.eval.tiny_bytes import Toy

MODELS = {
    "toy": lambda: Toy(vocab=64),
    "rwkv": lambda: jaxmodels.create(
        "rwkv", version=7, vocab_size=64, width=16, num_layers=1, head_size=8, seed=1
    ),
    "mamba": lambda: jaxmodels.create(
        "mamba", version=2, vocab_size=64, width=16, num_layers=1, state_size=8, seed=1
    ),
    "rnk": lambda: jaxmodels.create(
        "rnk",
        vocab_size=64,
        width=16,
        hidden_size=16,
        num_layers=1,
        plan_layers=1,
        plan_steps=1,
        seed=1,
    ),
}


def plain(model, context, continuation):
    """Score by the definition: token by token, from the initial state."""
    step = jax.jit(lambda model, state, token: model.step(state, token))
    state, logits, total, greedy = model.initial_state(1), None, 0.0, True
    for i, token in enumerate([*context, *continuation]):
        if i >= len(context):
            logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
            total += float(logprobs[token])
            greedy &= int(jnp.argmax(logprobs)) == token
        state, out = step(model, state, jnp.full((1,), token, jnp.int32))
        logits = out.logits[0]
    return total, greedy


def random_pairs(seed=0):
    rng = np.random.default_rng(seed)
    contexts = [rng.integers(0, 64, n).tolist() for n in (1, 3, 40, 17, 40, 2)]
    lengths = [(3, 1, 20), (1,), (2, 5), (33,), (1, 0), (7, 7)]
    return [
        (context, rng.integers(0, 64, n).tolist())
        for context, many in zip(contexts, lengths, strict=True)
        for n in many
    ]


@pytest.mark.parametrize(("name", "batch_size"), [("toy", 1), *((name, 4) for name in MODELS)])
def test_scores_equal_a_plain_loop(name, batch_size, monkeypatch):
    monkeypatch.setattr(scoring, "SEGMENT", 16)  # so that states are carried between segments
    model, pairs = MODELS[name](), random_pairs()
    scores = Scorer(model, batch_size).score(pairs)
    for (context, continuation), score in zip(pairs, scores, strict=True):
        total, greedy = plain(model, context, continuation)
        # float32 over sums of at most 33 terms of about 4
        assert score.logprob == pytest.approx(total, abs=1e-4) and score.greedy == greedy


def test_a_greedy_continuation_is_told():
    model = Toy(vocab=64)
    greedy, state, token = [], model.initial_state(1), 5
    for _ in range(4):
        state, out = model.step(state, jnp.full((1,), token, jnp.int32))
        token = int(jnp.argmax(out.logits[0]))
        greedy.append(token)
    other = [*greedy[:3], (greedy[3] + 1) % 64]
    scores = Scorer(model).score([([5], greedy), ([5], other), ([5], [])])
    assert [score.greedy for score in scores] == [True, False, True]
    assert scores[0].logprob > scores[1].logprob and scores[2].logprob == 0.0


def test_a_shared_context_is_read_once():
    model = Toy(vocab=64)
    context, choices = list(range(30)), ([1, 2, 3], [4], [5, 6])
    scorer = Scorer(model)
    together = scorer.score([(context, choice) for choice in choices])
    assert scorer.tokens_read == 30 + 2 + 0 + 1
    alone = [Scorer(model).score([(context, choice)])[0] for choice in choices]
    assert [x.logprob for x in together] == pytest.approx([x.logprob for x in alone], abs=1e-6)


def test_long_texts_are_read_whole():
    """No window: the state is carried, over more segments than one."""
    rng = np.random.default_rng(0)
    model, text = Toy(vocab=64), rng.integers(0, 64, 3 * scoring.SEGMENT + 5).tolist()
    scorer = Scorer(model, batch_size=2)
    score, short = scorer.score([(text[:1], text[1:]), (text[:1], text[1:9])])
    assert scorer.tokens_read == 1 + len(text) - 2 + 7
    state = model.initial_state(1)
    _, out = model(state, jnp.asarray(text[:-1])[None])
    logprobs = jax.nn.log_softmax(out.logits[0])[np.arange(len(text) - 1), text[1:]]
    assert score.logprob == pytest.approx(float(np.asarray(logprobs, np.float64).sum()), rel=1e-6)
    assert short.logprob == pytest.approx(float(np.sum(logprobs[:8])), rel=1e-6)


def test_few_programs_are_compiled():
    model = Toy(vocab=64)
    Scorer(model).score(random_pairs(1))
    before = scoring._read._cache_size(), scoring._score._cache_size()
    Scorer(model).score(random_pairs(2))
    assert (scoring._read._cache_size(), scoring._score._cache_size()) == before


def test_mistakes_get_one_line():
    scorer = Scorer(Toy(vocab=64))
    with pytest.raises(UserError, match="empty context"):
        scorer.score([([], [1])])
    for pair in (([1], [64]), ([64], [1])):
        with pytest.raises(UserError, match="id 64 is outside the model's vocabulary of 64"):
            scorer.score([pair])
    with pytest.raises(UserError, match="batch_size=0"):
        Scorer(Toy(), 0)
    nan = jax.tree.map(lambda x: x * np.nan, Toy(vocab=64))
    with pytest.raises(UserError, match="NaN"):
        Scorer(nan).score([([1], [2])])
    with pytest.raises(UserError, match="not a left-to-right"):
        Scorer(object())
