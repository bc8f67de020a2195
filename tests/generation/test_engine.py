"""A request's result is that which it has alone, bit for bit, whatever else happens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmodels.data import ByteTokenizer
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import Engine
from jaxmodels.generation.request import Request, Session
from jaxmodels.generation.sampling import Sampling
from jaxmodels.generation.text import TextOf
from jaxmodels.session import load_session, save_session
from tests.eval.tiny_bytes import Toy
from tests.generation.driving import (
    KINDS,
    drive,
    engine_of,
    ids,
    mixed,
    one,
    same,
    same_session,
    tiny,
)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def toy():
    return Toy(vocab=64)


@pytest.fixture(params=[16, 2], ids=["one block", "blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr("jaxmodels.generation.engine.CPU_BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
def test_together_equals_alone_in_whichever_slot_and_order(model):
    engine = engine_of(model)
    alone = [one(engine, **options) for options in mixed()]
    for starts in ([0] * 7, [0, 3, 1, 0, 2, 5, 9], [6, 5, 4, 3, 2, 1, 0]):
        together = drive(engine, [Request(**options) for options in mixed()], starts)
        assert all(map(same, alone, together))
    assert engine._programs.decode._cache_size() == 1


def test_the_state_is_that_of_a_model_that_reads_it_all(model):
    prompt = ids(21)
    result = one(engine_of(model), prompt, 9, Sampling(0.0), keep=True, top=0)
    whole = np.concatenate([prompt, result.tokens]).astype(np.int32)[None]
    state, out = jax.jit(model)(model.initial_state(1), whole)
    places = range(len(prompt) - 1, whole.shape[1] - 1)
    assert result.tokens == [int(out.logits[0, t].argmax()) for t in places]
    expected = jax.nn.log_softmax(out.logits[0])
    expected = [expected[t, k] for t, k in zip(places, result.tokens, strict=True)]
    np.testing.assert_allclose(result.logprobs, expected, atol=1e-5)
    np.testing.assert_allclose(result.session.logits, out.logits[:, -1], atol=1e-5)
    assert (result.session.tokens_read, result.session.drawn) == (whole.shape[1], 9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), result.session.state, state
    )


@pytest.mark.parametrize("first", [1, 5, 8])
def test_saved_loaded_and_continued_equals_uninterrupted(model, first, tmp_path):
    engine, options = engine_of(model), dict(sampling=Sampling(1.1), seed=9, keep=True)
    whole = one(engine, ids(19), 13, **options)
    start = one(engine, ids(19), first, **options)
    save_session(start.session, model, tmp_path / "s")
    session = load_session(tmp_path / "s", model)
    rest = one(engine_of(model), (), 13 - first, session=session, **options)
    assert start.tokens + rest.tokens == whole.tokens
    assert same_session(rest.session, whole.session)


def test_prefix_reuse_equals_fresh(model):
    cached, fresh = engine_of(model, prefix_bytes=10**7), engine_of(model)
    prompt = ids(30)
    others = [prompt, prompt[:25], prompt[:24], np.concatenate([prompt[:16], ids(9, 5)])]
    requests = [dict(prompt=x, max_tokens=5, seed=1, keep=True) for x in others]
    for options in requests + requests:
        assert same(one(cached, **options), one(fresh, **options))
    assert cached.prefixes.hits >= 3 + 2 + 2 + 3 and cached.prefixes.misses == 3 + 1


def test_a_prompt_in_parts_equals_the_prompt(model):
    """Read by steps, bit for bit; in pieces and by steps, to rounding."""
    engine, prompt = engine_of(model), ids(20)
    session = None
    for token in prompt:
        session = one(engine, [token], 0, session=session, keep=True).session
    steps = one(engine_of(model, piece=32), prompt, 0, keep=True).session
    assert same_session(session, steps)
    pieces = one(engine, prompt, 0, keep=True).session
    np.testing.assert_allclose(pieces.logits, steps.logits, atol=1e-5)


def test_a_stop_string_leaves_no_surplus_token_in_the_session(model):
    engine, options = engine_of(model), dict(sampling=Sampling(1.3), seed=4, keep=True)
    free = one(engine, ids(5), 14, **options)
    for count in (3, 7, 14):  # within a call, at its end, at the end of all
        stop = "".join(chr(65 + t) for t in free.tokens[count - 2 : count])
        text = TextOf(Letters(), (), (stop,))
        stopped = one(engine, ids(5), 14, text=text, **options)
        shown = "".join(chr(65 + t) for t in free.tokens)
        assert stopped.text == shown[: shown.index(stop)]
        assert stopped.finish_reason == "stop"
        exact = one(engine, ids(5), len(stopped.tokens), **options)
        assert stopped.tokens == exact.tokens and same_session(stopped.session, exact.session)
        alone = dataclasses.replace(exact.session)
        again = one(engine, (), 3, session=alone, **(options | {"keep": False}))
        assert again.tokens == free.tokens[len(stopped.tokens) :][:3] or count == 14


class Letters(ByteTokenizer):
    """Tokenizer that decodes every id to a letter."""

    def stream(self, context=()):
        return self

    def push(self, tokens):
        return "".join(chr(65 + t) for t in tokens)

    def finish(self):
        return ""


def test_an_end_token_is_not_read(toy):
    engine, options = engine_of(toy), dict(seed=2, keep=True)
    free = one(engine, [1, 2], 30, **options)
    end = free.tokens[6]
    count = free.tokens.index(end)
    ended = one(engine, [1, 2], 30, end_tokens=(end,), **options)
    assert (ended.tokens, ended.finish_reason) == (free.tokens[:count], "end")
    assert same_session(ended.session, one(engine, [1, 2], count, **options).session) or not count
    again = one(engine, (), 5, end_tokens=(end,), session=ended.session, seed=2)
    assert (again.tokens, again.finish_reason) == ([], "end")


@pytest.mark.usefixtures("blocks")
def test_who_leaves_changes_nobody(toy):
    engine = engine_of(toy)
    requests = [Request(ids(20, i), 25, seed=i) for i in range(5)]
    alone = [one(engine, ids(20, i), 25, seed=i).tokens for i in range(5)]
    numbers = [engine.submit(request) for request in requests]
    seen, reasons, call = {number: [] for number in numbers}, {}, 0
    while not engine.idle:
        for event in engine.advance():
            seen[event.id] += event.tokens
            reasons[event.id] = event.finish_reason
        call += 1
        for number, at in ((numbers[0], 4), (numbers[1], 1), (numbers[4], 2)):
            if call == at:
                engine.cancel(number)
    assert [reasons[n] for n in numbers] == ["cancelled"] * 2 + ["length"] * 2 + ["cancelled"]
    assert [seen[n] for n in numbers[2:4]] == alone[2:4]
    assert seen[numbers[0]] == alone[0][: len(seen[numbers[0]])]
    assert engine.running == engine.waiting == 0
    engine.cancel(numbers[0])  # which is over
    assert one(engine, ids(20, 0), 25, seed=0).tokens == alone[0]


def test_what_a_step_shows_comes_with_its_token(toy):
    def norms(model, before, after, out):
        return jnp.linalg.norm(after["h"], axis=-1)

    engine = engine_of(toy, watch=norms)
    text = TextOf(Letters(), (), ("@@",))
    requests = [Request([1, 2, 3], 6, watch=True, text=text), Request([4], 9)]
    numbers, seen = [engine.submit(x) for x in requests], []
    tokens = []
    while not engine.idle:
        for event in engine.advance():
            if event.id == numbers[0]:
                seen += event.watch.tolist()
                tokens += event.tokens
            else:
                assert event.watch is None
    state, expected = toy.initial_state(1), []
    for token in [1, 2, 3, *tokens]:
        state, _ = toy.step(state, jnp.array([token]))
        expected.append(float(jnp.linalg.norm(state["h"])))
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_an_empty_block_is_not_computed(toy, monkeypatch):
    monkeypatch.setattr("jaxmodels.generation.engine.CPU_BLOCK", 2)
    engine = engine_of(toy, slots=6)
    used = []
    for number, block in enumerate(engine._blocks):
        start = block._start

        def counted(limit, number=number, start=start):
            used.append(number)
            return start(limit)

        monkeypatch.setattr(block, "_start", counted)
    requests = [dict(prompt=ids(3, i), max_tokens=9, seed=i) for i in range(3)]
    drive(engine, [Request(**x) for x in requests[:2]])
    assert set(used) == {0}
    drive(engine, [Request(**x) for x in requests])
    assert set(used) == {0, 1}


def test_nothing_is_compiled_after_the_warm_up(toy):
    def watch(model, before, after, out):
        return jnp.linalg.norm(after["h"], axis=-1)

    engine = engine_of(toy, watch=watch)  # programs of its own

    def compiled():
        return [program._cache_size() for program in engine._programs]

    engine.warm_up()
    before = compiled()
    one(engine, ids(20), 3, keep=True, top=2)
    one(engine, [1], 3, Sampling(0.0), watch=True)
    assert compiled() == before and min(before) == 1
    with pytest.raises(UserError, match="computes NaN"):
        engine_of(Broken(vocab=64)).warm_up()


class Broken(Toy):
    """Model that computes nothing but NaN."""

    def step(self, state, token):
        state, out = super().step(state, token)
        return state, out.replace(logits=out.logits * jnp.nan)


def test_a_model_that_computes_nan_ends_its_request_alone(toy):
    class Sick(Toy):
        """Model that computes NaN after the token 9."""

        def step(self, state, token):
            state, out = super().step(state, token)
            bad = jnp.where(token == 9, jnp.nan, 0.0)[:, None]
            return state, out.replace(logits=(out.logits + bad).at[:, 9].add(-1e9))

    engine = engine_of(Sick(vocab=64))
    well = one(engine, [1, 2], 8, seed=3)
    numbers = [engine.submit(Request([1, 9], 8)), engine.submit(Request([1, 2], 8, seed=3))]
    errors, tokens = {}, []
    while not engine.idle:
        for event in engine.advance():
            errors[event.id] = event.error
            tokens += event.tokens if event.id == numbers[1] else []
    assert "computes NaN" in errors[numbers[0]] and errors[numbers[1]] is None
    assert tokens == well.tokens and len(tokens) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(prompt=[]), "prompt: empty"),
        (dict(prompt=[64]), "no token 64; the vocabulary is 0 to 63"),
        (dict(prompt=[-1]), "no token -1"),
        (dict(prompt=[[1]]), "prompt: give a list"),
        (dict(prompt=[0.5]), "prompt: give a list"),
        (dict(max_tokens=-1), "max_tokens=-1"),
        (dict(max_tokens=2**31), "max_tokens"),
        (dict(seed=2**32), "seed=4294967296"),
        (dict(seed=-1), "seed=-1"),
        (dict(top=21), "logprobs=21"),
        (dict(end_tokens=tuple(range(9))), "end_tokens: 9"),
        (dict(session=Session({"h": jnp.zeros((2, 16))})), "batch size of 1"),
    ],
)
def test_bad_requests(toy, options, message):
    engine = engine_of(toy)
    with pytest.raises(UserError, match=message):
        engine.submit(Request(**({"prompt": [1], "max_tokens": 2} | options)))
    assert engine.idle


def test_bad_engines(toy):
    with pytest.raises(UserError, match="slots=0"):
        Engine(toy, slots=0)
    with pytest.raises(UserError, match=r"no step\(\)"):
        Engine(nnx.Module())
