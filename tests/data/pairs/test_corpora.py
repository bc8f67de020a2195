"""Corpora with a format of their own: M2, TMX, Natural Questions."""

import json

import pytest

from jaxmodels.data.pairs.files import Reading, read_pairs
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError

M2 = """S This are a sentence sentence .
A 1 2|||R:VERB:SVA|||is|||REQUIRED|||-NONE-|||0
A 3 3|||M:ADJ|||very short|||REQUIRED|||-NONE-|||0
A 3 4|||U:NOUN||||||REQUIRED|||-NONE-|||0
A 0 1|||R:DET|||These|||REQUIRED|||-NONE-|||1

S Nothing is wrong .
A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||0

S Untouched .

S Gone
A 0 1|||U:NOUN|||-NONE-|||REQUIRED|||-NONE-|||0
"""
TMX = """<?xml version="1.0" encoding="UTF-8"?>
<tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en-US">
    <seg>Press <bpt i="1">&lt;b&gt;</bpt>any <hi>key</hi><ept i="1"/>.</seg></tuv>
    <tuv xml:lang="fr"><seg>Appuyez.</seg></tuv>
    <tuv xml:lang="es"><seg>Pulse  una
tecla.</seg></tuv></tu>
<tu><tuv xml:lang="es"><seg>Solo</seg></tuv></tu>
</body></tmx>
"""


def read(path, text, *columns):
    """Return ([(question, answer)], notes) of a file."""
    path.write_text(text, encoding="utf-8")
    unused = Unused()
    pairs = [(p.question, p.answer) for p in read_pairs(path, Reading(columns, unused))]
    return pairs, "\n".join(unused.notes())


def test_sentences_are_corrected_by_the_first_annotator(tmp_path):
    pairs, notes = read(tmp_path / "a.m2", M2)
    assert pairs == [
        ("This are a sentence sentence .", "This is a very short sentence ."),
        ("Nothing is wrong .", "Nothing is wrong ."),
        ("Untouched .", "Untouched ."),
    ]
    assert "edits by further annotators (1" in notes and "a.m2:5" in notes
    assert "of which nothing is left (1" in notes


def test_translation_memories(tmp_path):
    pairs, notes = read(tmp_path / "a.tmx", TMX, "en", "es")
    assert pairs == [("Press any key.", "Pulse una tecla.")]
    assert "without a segment in both languages (1; first: " in notes
    assert "segments in further languages (1" in notes
    assert read(tmp_path / "a.tmx", TMX)[0] == [("Press any key.", "Appuyez.")]
    assert read(tmp_path / "a.tmx", TMX, "es", "fr")[0] == [("Pulse una tecla.", "Appuyez.")]


def test_markup_may_be_nested_deeply(tmp_path):
    deep = "<hi>" * 5000 + "word" + "</hi>" * 5000
    text = TMX.replace("Appuyez.", deep)
    assert read(tmp_path / "a.tmx", text, "fr", "es")[0] == [("word", "Pulse una tecla.")]


def test_natural_questions(tmp_path):
    tokens = "<P> The sky is blue or grey . </P> <P> No . </P>"
    spans = [{"start_token": 4, "end_token": 5}, {"start_token": 6, "end_token": 7}]
    annotation = {
        "long_answer": {"start_token": 0, "end_token": 9},
        "short_answers": spans,
        "yes_no_answer": "NONE",
    }
    row = {"document_text": tokens, "question_text": "how is it", "annotations": [annotation]}
    none = annotation | {"short_answers": []}
    nowhere = {"start_token": -1, "end_token": -1}
    rows = [
        row,
        row | {"annotations": [none | {"yes_no_answer": "YES"}]},
        row | {"annotations": [none]},
        row | {"annotations": [annotation | {"long_answer": nowhere}]},
        {"question": "who", "answer": ["me", "I"]},  # NQ-open
    ]
    pairs, notes = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    context = "The sky is blue or grey .\nhow is it"
    assert pairs == [(context, "blue"), (context, "yes"), ("who", "me")]
    assert "questions without an answer (2" in notes and "further answers to a question (2" in notes


EDIT = "A 0 1|||R:A|||x|||REQUIRED|||-NONE-|||0"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.m2", "This is it\n", "a.m2:1: expected a sentence"),
        ("a.m2", "S a b\nA 0 1|||x\n", "a.m2:2: expected an edit"),
        ("a.m2", "S a b\nB 0 1\n", "a.m2:2: expected an edit"),
        ("a.m2", f"S a b\n{EDIT.replace('0 1', '1 3')}\n", "a.m2:2: an edit of the tokens 1 to 3"),
        ("a.m2", f"S a b\n{EDIT}\n{EDIT}\n", "a.m2:3: overlaps another edit"),
        ("a.tmx", "<tmx><tu></tmx>", "a.tmx: not valid XML, mismatched tag: line 1"),
        ("a.tmx", "<tmx/>", "contains no unit"),
        (
            "a.jsonl",
            '{"document_text": "", "question_text": "", "annotations": []}',
            "a.jsonl:1: n",
        ),
    ],
)
def test_malformed_files_are_named(tmp_path, name, text, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path / name, text)


def test_two_languages_are_named(tmp_path):
    with pytest.raises(UserError, match="name two languages, got 1"):
        read(tmp_path / "a.tmx", TMX, "en")
