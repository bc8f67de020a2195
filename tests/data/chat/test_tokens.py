"""Conversations in characters and BPE: lossless rows, marks, and what they are fitted on."""

import numpy as np
import pytest

from jaxmodels.data.chat.exchange import BYTES, ChatCorpus, Exchange, lay_out
from jaxmodels.data.chat.tokens import FEWEST, TOKENIZERS, fitted
from jaxmodels.data.tokenizers.fit import tokenizer_from_json
from jaxmodels.errors import UserError
from jaxmodels.models.rnk.config import RNKConfig

TRAIN = tuple(Exchange((f"{a} + {b}",), str(a + b)) for a in range(90, 120) for b in range(90, 120))


def corpus_of(name, train=TRAIN, max_tokens=400):
    return fitted(ChatCorpus("x", train, TRAIN[:1], (), ""), name, max_tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_rows_give_back_the_text_and_their_marks_are_rnks(name):
    tokenizer = corpus_of(name).tokenizer
    marks = RNKConfig(vocab_size=tokenizer.vocab_size)
    rows = lay_out(TRAIN[:3], 64, 16, (), tokenizer)
    for x, inputs, targets, weights, sizes in zip(
        TRAIN, rows.inputs, rows.targets, rows.weights, rows.sizes, strict=False
    ):
        (begin,) = np.flatnonzero(inputs == marks.begin)
        assert (begin + 1) % 16 == 0 and (inputs < marks.pad).sum() > 10
        prompt, answer = inputs[:begin][inputs[:begin] != marks.pad], targets[weights > 0]
        text = f"User: {x.turns[0]}\nModel: "
        assert tokenizer.decode(prompt) == text and answer[-1] == marks.end
        assert tokenizer.decode(answer[:-1]) == x.response
        assert name == "byte" or tokenizer.decode(answer) == x.response  # marks are skipped
        assert sizes.tolist() == [len(text), len(x.response) + 1]
    assert set(tokenizer.encode(f"{TRAIN[0].turns[0]}<eos><|pad|>")) < set(range(marks.end))


def test_bpe_joins_digits_and_the_others_do_not():
    lengths = {name: len(corpus_of(name).tokenizer.encode("201")) for name in TOKENIZERS}
    assert lengths == {"byte": 3, "char": 3, "bpe": 1}
    assert corpus_of("bpe").tokenizer.vocab_size <= 400


@pytest.mark.parametrize("name", ["char", "bpe"])
def test_tokenizers_have_not_seen_what_is_held_out(name):
    held = (Exchange(("7777 x",), "7777"),) * 50
    apart = fitted(ChatCorpus("x", TRAIN, held, held, ""), name, 400).tokenizer
    assert apart == corpus_of(name).tokenizer != corpus_of(name, TRAIN + held).tokenizer


@pytest.mark.parametrize("name", ["char", "bpe"])
def test_tokenizers_are_stored_and_part_of_the_datas_identity(name):
    corpus = corpus_of(name)
    assert corpus.fingerprint() not in (corpus_of("byte").fingerprint(), "")
    again = tokenizer_from_json(corpus.tokenizer.to_json())
    assert again == corpus.tokenizer and again.name == name
    assert again.encode("95 + 7").tolist() == corpus.tokenizer.encode("95 + 7").tolist()
    assert corpus_of("byte").tokenizer == BYTES != again


def test_a_response_with_unknown_characters_is_left_out():
    tokenizer = corpus_of("char").tokenizer
    rows = lay_out([Exchange(("1",), "one"), Exchange(("1?",), "1")], 64, 1, (), tokenizer)
    assert rows.kept.tolist() == [1]
    with pytest.raises(UserError, match="seq_len: none of 1 exchanges fits in 8 tokens"):
        lay_out(TRAIN[:1], 8, 1, (), tokenizer)


def test_other_tokenizers_are_refused():
    with pytest.raises(UserError, match=r"not read with 'word'; choose from: byte, char, bpe"):
        corpus_of("word")
    with pytest.raises(UserError, match=rf"max_tokens: 'bpe' needs {FEWEST} or more .* got 262"):
        corpus_of("bpe", max_tokens=262)
    assert corpus_of("bpe", max_tokens=FEWEST).tokenizer.vocab_size == FEWEST
