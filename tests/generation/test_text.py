"""Text never has a broken character, and stop strings are found wherever they are cut."""

import itertools

import pytest

from jaxmodels.data import ByteTokenizer, CharTokenizer, WordTokenizer
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.errors import UserError
from jaxmodels.generation.text import StopFinder, TextOf, checked_stops

TEXT = "naïve ☃ — 你好, 🎉🎉 end"


def test_stop_strings_are_found_however_the_text_is_cut():
    text, stops = "ab\nabc\nUser: hi", ("\nUser:", "bc\nX", "zz")
    for cuts in itertools.combinations(range(1, len(text)), 3):
        finder, shown = StopFinder(stops), ""
        for start, stop in itertools.pairwise((0, *cuts, len(text))):
            shown += finder.push(text[start:stop])
            assert "ab\nabc".startswith(shown)
        assert shown == "ab\nabc" and finder.found and finder.finish() == ""


def test_what_is_held_back_comes_at_the_end():
    finder = StopFinder(("stop",))
    assert finder.push("a sto") == "a " and finder.push("ne st") == "stone "
    assert (finder.finish(), finder.found) == ("st", False)


def test_the_first_of_several_stops_counts():
    finder = StopFinder(("late", "a"))
    assert finder.push("xlate") == "x" and finder.found


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize("name", ["byte", "char", "word", "bpe"])
def test_pieces_join_to_the_text(name, size):
    words = ("<pad>", "<unk>", "we", "the", "people")
    tokenizer, text = {
        "byte": lambda: (ByteTokenizer(), TEXT),
        "char": lambda: (CharTokenizer.fit([TEXT]), TEXT),
        "word": lambda: (WordTokenizer(words), "we the people we"),
        "bpe": lambda: (BPETokenizer.fit([TEXT], vocab_size=300), TEXT),
    }[name]()
    ids = [int(i) for i in tokenizer.encode(text)]
    for context in (0, 2):
        stream, pieces = TextOf(tokenizer, ids[:context]), []
        for start in range(context, len(ids), size):
            pieces += stream.push(ids[start : start + size])[0]
        pieces.append(stream.finish()[0])
        if name != "byte":
            assert tokenizer.decode(ids[:context]) + "".join(pieces) == text
        elif not context:
            assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_stop_counts_the_tokens_up_to_its_end():
    stream = TextOf(ByteTokenizer(), (), ("lo w",))
    pieces, count = stream.push(list(b"hello"))
    assert ("".join(pieces), count) == ("hel", None)
    pieces, count = stream.push(list(b" world"))
    assert ("".join(pieces), count) == ("", 2)


@pytest.mark.parametrize("stop", ["", ["a", ""], [3], ["x"] * 17])
def test_bad_stops(stop):
    with pytest.raises(UserError, match="stop"):
        checked_stops(stop)
    assert checked_stops(None) == () and checked_stops("a") == ("a",)
