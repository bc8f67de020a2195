"""The table of tokenizers (L-24), held against cases counted by hand."""

import pytest

from jaxmodels.data import ByteTokenizer, WordTokenizer
from jaxmodels.data.pairs.rows import Pair, texts_of
from jaxmodels.data.tokenizers.answers import AnswerCharTokenizer, HybridTokenizer
from jaxmodels.data.tokenizers.compare import compare_tokenizers, main
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS, fit_tokenizer
from jaxmodels.errors import UserError

PAIRS = [Pair("ab", "ñ"), Pair("a", "b"), Pair("abc", "ca")]


def test_counted_by_hand():
    given = {
        "three": AnswerCharTokenizer("abc"),
        "words": HybridTokenizer(("ab",), "abcñ"),
        "byte": ByteTokenizer(),
    }
    three, words, byte = compare_tokenizers(PAIRS, given, width=10)
    assert (three.name, three.vocab_size, three.parameters) == ("three", 7, 140)
    assert three.mean_tokens == pytest.approx((3 + 2 + 5) / 3) and three.p95_tokens == 5
    assert three.unknown == pytest.approx(1 / 10) and three.lossless == pytest.approx(5 / 6)
    assert words.vocab_size == 9 and words.mean_tokens == pytest.approx((2 + 2 + 5) / 3)
    assert words.unknown == 0.0 and words.lossless == 1.0
    assert byte.mean_tokens == pytest.approx((4 + 2 + 5) / 3)  # ñ is two bytes
    assert byte.unknown == 0.0 and byte.lossless == 1.0 and byte.parameters == 5120


def test_p95_excludes_the_longest_twentieth():
    pairs = [Pair("a" * n, "a") for n in range(1, 101)]
    (row,) = compare_tokenizers(pairs, {"a": AnswerCharTokenizer("a")}, width=1)
    assert row.p95_tokens == 96  # questions of 1 to 95, and an answer of 1


def test_unknown_words_are_lost():
    (row,) = compare_tokenizers(
        [Pair("a b", "a  y z")], {"word": WordTokenizer.fit(["a b"])}, width=1
    )
    assert row.unknown == pytest.approx(2 / 5) and row.lossless == 0.5


def test_named_tokenizers():
    fitted = [fit_tokenizer(name, texts_of(PAIRS), 300) for name in TEXT_TOKENIZERS]
    assert [t.vocab_size for t in fitted[:3]] == [195, 83, 84]
    assert fitted[3].words == ("ab", "abc", "ca") and fitted[4].name == "bpe"
    with pytest.raises(UserError, match="unknown 'x'; choose from: answer_char"):
        fit_tokenizer("x", texts_of(PAIRS), 300)


def test_command_line(capsys):
    assert main(["translation", "--count", "100", "--max-tokens", "300", "--width", "8"]) == 0
    told = capsys.readouterr().out
    lines = [line.split(" | ") for line in told.splitlines() if line.startswith("| ")]
    assert [line[0] for line in lines[1:]] == [f"| {name}" for name in TEXT_TOKENIZERS]
    assert "20 test pairs, split by unseen combination of slots, width 8" in told
    assert lines[1][1:] == [*lines[1][1:4], "0.00%", "3,120", "100.00% |"]
    assert float(lines[2][4].rstrip("%")) > 0  # accents that the source's characters lack
    assert main(["nothing"]) == 2
    assert "nothing: neither a file nor a task" in capsys.readouterr().err


def test_invalid_arguments():
    with pytest.raises(UserError, match="pairs: must not be empty"):
        compare_tokenizers([], {}, 1)
    with pytest.raises(UserError, match="width must be positive"):
        compare_tokenizers(PAIRS, {}, 0)
