"""One line continues prompts, alone or many, whole or as a stream, compiled once."""

import jax
import jax.numpy as jnp
import pytest

import jaxmodels
from jaxmodels import generate
from jaxmodels.data import ByteTokenizer, WordTokenizer
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import MANY
from jaxmodels.generation.programs import programs_of
from tests.eval.tiny_bytes import Toy

TEXTS = ["We the people", "a", "of the United States, in order to form a more perfect union " * 3]
BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def model():
    return Toy()


def test_several_prompts_equal_each_alone(model):
    options = dict(seed=5, tokenizer=BYTES, logprobs=2, keep=True, slots=4)
    together = generate(model, TEXTS, 40, **options)
    assert [len(x.tokens) for x in together] == [40] * 3
    for text, result in zip(TEXTS, together, strict=True):
        alone = generate(model, text, 40, **options)
        assert (alone.tokens, alone.text) == (result.tokens, result.text)
        assert alone.logprobs == result.logprobs and alone.top_logprobs == result.top_logprobs
        assert result.prompt_tokens == len(text) and len(result.top_logprobs[0]) == 2
    ids = [list(text.encode()) for text in TEXTS]
    assert [x.tokens for x in generate(model, ids, 40, seed=5)] == [x.tokens for x in together]


def test_seeds_options_and_sessions(model):
    one = generate(model, [list(b"ab")] * 3, 20, seed=[1, 2, 1], keep=True)
    assert one[0].tokens == one[2].tokens != one[1].tokens
    assert generate(model, "ab", 20, seed=1, tokenizer=BYTES).tokens == one[0].tokens
    rest = generate(model, [[], []], 5, seed=[1, 2], sessions=[x.session for x in one[:2]])
    whole = generate(model, [list(b"ab")] * 2, 25, seed=[1, 2])
    assert [a.tokens + b.tokens for a, b in zip(one[:2], rest, strict=True)] == [
        x.tokens for x in whole
    ]
    again = generate(model, [], 5, seed=1, sessions=one[0].session)  # a prompt, not none
    assert again.tokens == rest[0].tokens
    array = generate(model, jnp.array(list(b"ab")), 20, seed=1, top_k=2**40)
    assert array.tokens == one[0].tokens
    greedy = generate(model, list(b"ab"), 9, temperature=0)
    assert greedy.tokens == generate(model, list(b"ab"), 9, top_k=1).tokens
    assert greedy.text is None and greedy.finish_reason == "length"


def test_a_stream_joins_to_the_result(model):
    options = dict(seed=3, tokenizer=BYTES, stop=["e", "q"])
    whole = generate(model, TEXTS, 60, **options)
    texts, reasons = [""] * 3, [None] * 3
    for index, event in generate(model, TEXTS, 60, stream=True, **options):
        texts[index] += event.text
        reasons[index] = event.finish_reason
    assert texts == [x.text for x in whole] and reasons == [x.finish_reason for x in whole]
    assert not any("e" in text or "q" in text for text in texts) and "stop" in reasons


def test_the_text_of_a_session_goes_on_where_it_was_cut(model):
    words = WordTokenizer(("<pad>", "<unk>", *(f"w{i}" for i in range(254))))
    options = dict(seed=3, tokenizer=words, keep=True)
    whole = generate(model, "w5 w6", 9, **options).text
    text, session = "", None
    for count in (1, 3, 5):
        part = generate(model, [] if session else "w5 w6", count, sessions=session, **options)
        text, session = text + part.text, part.session
    assert text == whole and len(whole.split()) == 9


def test_compiled_once_a_shape(model):
    for length, options in ((3, {}), (70, dict(top_p=0.9)), (200, dict(logprobs=1))):
        generate(model, [list(range(length)), [1]], 5 + length, **options)
    programs = programs_of(jax.tree.structure(model), 2, MANY, None)
    assert programs.decode._cache_size() == programs.read_piece._cache_size() == 1


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("text", {}, "tokenizer: needed"),
        ([1], dict(stop="x"), "tokenizer: needed"),
        ([[1], [2]], dict(seed=[1]), "seed: 1 for 2 prompts"),
        ([[1], []], {}, "prompt: empty"),
        ([300], {}, "no token 300"),
        ([2**32 + 65], {}, "ids 4294967361 to"),
        ([-1], {}, "no token -1"),
        (None, {}, "prompts=None"),
        ([1], dict(temperature=-1), "temperature=-1"),
        ([1], dict(temperature="hot"), "temperature='hot': give a number"),
        ([1], dict(min_p="x"), "min-p='x': give a number"),
        ([1], dict(top_k=1.5), "top-k=1.5: give a whole number"),
        ([1], dict(max_tokens=-1), "max_tokens=-1"),
        ([1], dict(max_tokens=2.5), "max_tokens=2.5: give a whole number"),
        ([1], dict(max_tokens="5"), "max_tokens='5': give a whole number"),
        ([1], dict(logprobs=1.5), "logprobs=1.5: give a whole number"),
        ([1], dict(seed="1"), "seed='1': give a whole number"),
        ([1], dict(seed=2**32), "seed=4294967296: give"),
        ([1], dict(stop=5, tokenizer=BYTES), "stop=5: give strings"),
        ([1], dict(end_tokens=5), "end_tokens=5: give a list"),
        ([1], dict(end_tokens=[1.5]), "end_tokens=1.5: give a whole number"),
        ([1], dict(slots=1.5), "slots=1.5: give a whole number"),
        ([1], dict(sessions="a"), "sessions: give the `session`"),
    ],
)
def test_bad_arguments(model, prompts, options, message):
    with pytest.raises(UserError, match=message):
        generate(model, prompts, **options)
    assert jaxmodels.generate is generate
