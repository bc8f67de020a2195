"""A tokenizer.json: the ids and texts of the library `tokenizers`, and one line for a bad file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from jaxmodels.data import tokenizer_from_json
from jaxmodels.data.tokenizers.huggingface import HuggingFaceTokenizer
from jaxmodels.errors import UserError
from tests.data.tokenizers.worlds import FAMILIES, TEXTS, family

LOSSLESS = ("byte_level", "split_byte_level")
TRICKY = [
    "  naïve naïve  ﬁ Å e\u0301",  # added tokens, and what NFC and NFKC change
    "a<|im_end|>b </s> <s>c <unk> [CLS]",
    "\u0000 \u200b \ufffd \U0010ffff",
    "",
]


def ours(name: str) -> HuggingFaceTokenizer:
    return tokenizer_from_json(family(name).to_str())


@pytest.mark.parametrize("name", FAMILIES)
@given(text=st.one_of(st.text(max_size=30), st.sampled_from(TEXTS + TRICKY)))
@settings(deadline=None, max_examples=40)
def test_ids_and_texts_are_the_librarys(name, text):
    library, tokenizer = family(name), ours(name)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == library.encode(text, add_special_tokens=False).ids
    np.testing.assert_array_equal(tokenizer.encode(text.encode()), ids)
    expected = library.decode(ids.tolist(), skip_special_tokens=True)
    if name != "byte_fallback" or "\ufffd" not in expected:
        assert tokenizer.decode(ids) == expected


@pytest.mark.parametrize("name", LOSSLESS)
@given(text=st.text(max_size=30))
@example(text="🙂 é 你好\r\n\t x")
@settings(deadline=None, max_examples=40)
def test_texts_round_trip(name, text):
    tokenizer = ours(name)
    normal = family(name).normalizer.normalize_str(text)
    if not any(token in text for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")):
        assert tokenizer.decode(tokenizer.encode(text)) == normal


@given(text=st.text(alphabet="theo é\n你🙂ab<>", max_size=20))
@settings(deadline=None, max_examples=60)
def test_unknown_characters_come_back_as_bytes(text):
    tokenizer = ours("byte_fallback")
    if not any(token in text for token in ("<s>", "</s>", "<unk>")):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", FAMILIES)
@given(text=st.one_of(st.text(min_size=1, max_size=30), st.sampled_from(TEXTS)))
@settings(deadline=None, max_examples=40)
def test_bytes_of_the_tokens_sum_to_the_text(name, text):
    """Bits per byte are then those of the text, whatever the normalizer does."""
    tokenizer = ours(name)
    counts = tokenizer.byte_counts(text)
    assert len(counts) == len(tokenizer.encode(text)) and (counts >= 0).all()
    assert counts.sum() == (len(text.encode()) if len(counts) else 0)


def test_bytes_of_each_token():
    tokenizer = ours("split_byte_level")
    ids, counts = tokenizer.encode("the lazy dog"), tokenizer.byte_counts("the lazy dog")
    assert counts.tolist() == [len(tokenizer.decode([i])) for i in ids] and len(ids) < 12
    counts = tokenizer.byte_counts("a\U00020000")  # a character of four tokens counts once
    assert counts.tolist() == [1, 4, 0, 0, 0]


def test_special_tokens():
    tokenizer = ours("split_byte_level")
    end = tokenizer.token_id("<|im_end|>")
    assert end in tokenizer.special and len(tokenizer.special) == 3
    assert tokenizer.encode("<|im_end|>").tolist() == [end]
    assert tokenizer.decode([end, *tokenizer.encode("a"), end]) == "a"
    bos = tokenizer.token_id("<|endoftext|>")
    assert family("split_byte_level").encode("a").ids[0] == bos  # its post-processor's
    assert bos not in tokenizer.encode("a")
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.decode([-1, 10**6]) == ""
    assert tokenizer.decode([]) == "" and len(tokenizer.encode("")) == 0


@pytest.mark.parametrize(
    ("name", "text", "unknown"),
    [
        ("word_piece", "the Ж dog", ["Ж"]),
        ("no_decoder", "the cat", ["cat"]),
        ("unigram", "the Ж", ["Ж"]),
        ("byte_level", "the Ж", []),
        ("byte_fallback", "the Ж", []),
    ],
)
def test_unknown_symbols(name, text, unknown):
    tokenizer = ours(name)
    assert tokenizer.unknown(text) == unknown
    assert bool(unknown) == (tokenizer.unk in tokenizer.encode(text).tolist())


def test_truncation_and_padding_of_the_file_are_left_out():
    library = Tokenizer.from_str(family("byte_level").to_str())
    library.enable_truncation(4)
    library.enable_padding(length=64)
    text = TEXTS[0]
    whole = family("byte_level").encode(text, add_special_tokens=False).ids
    assert len(library.encode(text).ids) == 64
    assert tokenizer_from_json(library.to_str()).encode(text).tolist() == whole


def test_the_file_travels_unchanged():
    text = json.dumps(json.loads(family("unigram").to_str()), indent=1)  # not as we would write it
    tokenizer = tokenizer_from_json(text)
    assert tokenizer.to_json() == text and tokenizer_from_json(text) == tokenizer
    assert tokenizer.name == "huggingface"


def test_ids_with_gaps():
    vocabulary = {"[UNK]": 0, "a": 5, "b": 9}
    tokenizer = tokenizer_from_json(
        Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).to_str()
    )
    assert tokenizer.vocab_size == 10
    assert tokenizer.decode([5, 7, 9]) == "a b"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a tokenizer description"),
        ("[]", "not a tokenizer description"),
        ('{"model": 3}', "not a tokenizer.json"),
        ('{"model": {"type": "Quantum"}}', "not a tokenizer.json"),
        ('{"model": {"type": "BPE"}}', "not a tokenizer.json"),
        (family("byte_level").to_str()[:-40], "not a tokenizer description"),
        (Tokenizer(models.BPE()).to_str(), "empty vocabulary"),
        (
            family("unigram").to_str().replace('"Metaspace"', '"Hyperspace"'),
            "not a tokenizer.json",
        ),
    ],
    ids=["cut", "list", "number", "model", "fields", "truncated", "empty", "pre_tokenizer"],
)
def test_bad_files_get_one_line(content, says):
    with pytest.raises(UserError, match=says) as raised:
        tokenizer_from_json(content)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
