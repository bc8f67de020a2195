"""Texts in an alphabet that the tokenizer lacks."""

import pytest

from jaxmodels.data.build import main as build
from jaxmodels.data.pairs.alphabet import check_alphabet
from jaxmodels.data.pairs.rows import Pair, prefixed
from jaxmodels.data.tokenizers.answers import AnswerCharTokenizer, HybridTokenizer
from jaxmodels.data.tokenizers.byte_word import WordTokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.marked import MarkedTokenizer
from jaxmodels.errors import UserError

LATIN = AnswerCharTokenizer()


def test_an_alphabet_that_does_not_fit_is_refused():
    pairs = [Pair(f"三加{number}等于多少", "等于八。") for number in "一二三四五"]
    with pytest.raises(UserError, match=r"'answer_char' does not know .*\(100.0%\) of train.*bpe"):
        check_alphabet({"train": pairs}, LATIN, 0.2)
    hybrid = HybridTokenizer(("等于",))
    with pytest.raises(UserError, match="'hybrid' does not know"):
        check_alphabet({"train": pairs}, hybrid, 0.2)
    with pytest.raises(UserError, match="4 of 5 questions of train become the same row as another"):
        check_alphabet({"train": pairs}, LATIN, 1.0)


def test_a_few_unknown_symbols_are_told():
    pairs = [Pair(f"question {i} about it", "an answer") for i in range(200)]
    assert check_alphabet({"train": pairs}, LATIN, 0.0) == ()
    pairs += [Pair("one \u0142", "answer"), Pair("one \u0105", "answer")]
    share, same = check_alphabet({"train": pairs}, LATIN, 0.2)
    assert "2 of the" in share and "of train, such as '\u0142' '\u0105'" in share
    assert "1 of 202 questions of train become the same row as another, such as 'one" in same


@pytest.mark.parametrize(
    ("tokenizer", "unknown"),
    [
        (LATIN, ["\u0142"]),
        (HybridTokenizer(("ab", "\u0142o")), ["\u0142"]),
        (CharTokenizer("a b"), ["\u0142"]),
        (MarkedTokenizer(CharTokenizer("a b")), ["\u0142"]),
        (WordTokenizer(("<pad>", "<unk>", "ab")), ["\u0142"]),
    ],
)
def test_every_tokenizer_names_what_becomes_unknown(tokenizer, unknown):
    text = "ab \u0142 ab"
    assert tokenizer.unknown(text) == unknown and not tokenizer.unknown("ab ab")
    assert (tokenizer.encode(text) == tokenizer.unk).sum() == 1


def test_a_builder_refuses_as_well(tmp_path, capsys):
    lines = "".join(f"\u4e09\u52a0{chr(0x4E00 + i)}\t\u516b\n" for i in range(40))
    (tmp_path / "a.tsv").write_text(lines, encoding="utf-8")
    assert build([str(tmp_path / "a.tsv"), "--out", str(tmp_path / "out")]) == 2
    assert "'answer_char' does not know" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_prefix_is_put_in_front_once():
    assert prefixed("cat", "\n\nSay: ") == "\n\nSay: cat"
    assert prefixed(" Say: cat ", "\n\nSay: ") == "\n\nSay: cat"
    assert prefixed("Re\u0301pond: cat", "R\u00e9pond: ") == "R\u00e9pond: cat"
    assert prefixed("Saying so", "Say ") == "Say Saying so" and prefixed(" a ", "") == "a"
