"""What an input holds and nobody reads is counted, told and limited."""

import os
from pathlib import Path

import pytest

from jaxmodels.data import FORMATS, load_corpus
from jaxmodels.data.chat.corpora import read_chat
from jaxmodels.data.readers.files import find_files
from jaxmodels.data.unused import Unused
from jaxmodels.errors import UserError


def test_notes_say_kind_number_and_place():
    unused = Unused()
    unused.fields({"text": "abc", "id": 7, "empty": "", "none": None}, ("text",), "a.jsonl:1")
    unused.fields({"text": "abc", "id": 8, "url": "u"}, ("text",), "a.jsonl:2")
    unused.add("questions without an answer", "a\nb.json", 3)
    assert unused.notes() == (
        "not used: fields 'id' (2), 'url' (1) (first: a.jsonl:1)",
        r"not used: questions without an answer (3; first: a\nb.json)",
    )
    unused.check(0.2, "")  # one character of seven
    with pytest.raises(UserError, match=r"14% of the text .* 'url' .*max_unused=0.1; do this"):
        unused.check(0.1, "do this")


@pytest.fixture
def folder(tmp_path):
    """Folder of two texts, and of all that is left out of a folder."""
    inside = tmp_path / "inside"
    for name in ("a.txt", "deep/b.TXT", "deep/c.pdf", ".hidden/d.txt", ".e.txt"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text(f"text of {name}\n")
    (tmp_path / "other").mkdir()
    (inside / "link").symlink_to(tmp_path / "other")
    (inside / "gone.txt").symlink_to("nowhere")
    return inside


def test_what_is_left_out_of_a_folder_is_named(folder):
    unused = Unused()
    found = find_files([folder, folder / "a.txt"], (".txt",), unused)
    assert [path.name for path in found] == ["a.txt", "b.TXT"]
    says = "\n".join(unused.notes())
    for part in (
        "hidden files (1",
        "hidden folders (1",
        "files other than *.txt (1",
        "links to fol",
    ):
        assert part in says
    assert "lead nowhere" in says and "named twice (1" in says and str(folder / "link") in says


def test_folders_that_may_not_be_read(folder, monkeypatch):
    scan = os.scandir  # root may read everything, so that permissions do not show it

    def closed(path="."):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"deep: cannot be read \(Permission denied\); change its"):
        find_files([folder])
    unused = Unused()
    assert [p.name for p in find_files([f"{folder}/**/*.txt"], unused=unused)] == ["a.txt"]
    assert any("folders that cannot be read (1; first: " in note for note in unused.notes())


def test_patterns_say_which_folders_they_match(folder):
    unused = Unused()
    assert [p.name for p in find_files([f"{folder}/*"], unused=unused)] == ["a.txt"]
    assert "folders that a pattern matches" in unused.notes()[0]


LINES = {
    "gsm8k": {"question": "q", "answer": "a\n#### 1"},
    "cot": {"source": "s", "rationale": "r", "target": "t"},
    "metacognition": {"question": "q", "answer": "a"},
    "wikipedia": {"title": "t", "text": "words"},
}


@pytest.mark.parametrize("name", LINES)
def test_every_format_counts_other_fields(name, tmp_path):
    import json

    path, unused = tmp_path / "a.jsonl", Unused()
    path.write_text(json.dumps(LINES[name] | {"url": "u"}) + "\n")
    assert list(FORMATS[name].read(path, unused))
    assert unused.notes() == (f"not used: fields 'url' (1) (first: {path}:1)",)
    path.write_text(json.dumps(LINES[name]).replace('"', '"\\ud83d', 1) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: an unpaired surrogate"):
        list(FORMATS[name].read(path))
    (tmp_path / "a.json").write_text(json.dumps([LINES[name]]))
    if name != "cot":  # its .json is an object
        assert len(list(FORMATS[name].read(tmp_path / "a.json"))) == 1


def test_hrdoc_and_blocks_of_wikipedia(tmp_path):
    path, unused = tmp_path / "a.json", Unused()
    line = '{"text": "t", "line_id": %d, "parent_id": -1, "relation": "contain", "page": 1}'
    path.write_text(f"[{line % 0}]")
    assert list(FORMATS["hrdoc"].read(path, unused)) and "'page' (1)" in unused.notes()[0]
    path.write_text(f"[{line % 0}, {line % 0}]")
    with pytest.raises(UserError, match="entry 1: line_id 0 is taken"):
        list(FORMATS["hrdoc"].read(path))
    path.write_text(f"[{line % 0}]".replace('"t"', '"\\ud83d"'))
    with pytest.raises(UserError, match="unpaired surrogate"):
        list(FORMATS["hrdoc"].read(path))
    blocks, unused = tmp_path / "wiki_00", Unused()
    blocks.write_text('<doc title="a">\na\n</doc>\nlost\n<doc title="b">\nb\ntext\n</doc>\n')
    assert len(list(FORMATS["wikipedia"].read(blocks, unused))) == 1
    assert unused.notes() == (
        f"not used: articles without text (1; first: {blocks}:1)",
        f"not used: lines outside of <doc> (1; first: {blocks}:4)",
    )


def test_a_corpus_tells_what_it_leaves_out_and_does_not_know(folder):
    corpus = load_corpus(folder, valid_fraction=0, test_fraction=0)
    assert any("files other than" in note for note in corpus.notes)
    (folder / "deep" / "b.TXT").write_text("new words here, of text a txt now\n")
    with pytest.raises(
        UserError, match=r"'word' does not know .* symbols .* of valid, such as 'new'"
    ):
        load_corpus(folder, "word", valid_fraction=0.5, test_fraction=0)
    known = load_corpus(folder, "word", valid_fraction=0.5, test_fraction=0, max_unused=1.0)
    assert "unknown to the tokenizer: 5 of the 9 symbols (55.6%) of valid" in known.notes[-1]


def test_conversations_count_fields_and_take_others_by_name(tmp_path):
    path, unused = tmp_path / "a.jsonl", Unused()
    path.write_text('{"prompt": "p p", "response": "r r", "id": 3, "intent": "math"}\n')
    assert read_chat([path], unused=unused)[0].turns == ("p p", "r r")
    assert unused.notes() == (f"not used: fields 'id' (1) (first: {path}:1)",)
    path.write_text('{"system": "be brief", "ask": "p", "say": "r"}\n')
    assert read_chat([path], columns=("system", "ask", "say"))[0].turns == ("be brief\np", "r")
    path.write_text('{"instruction": "Add", "response": "3", "context": "all of 1 and 2"}\n')
    with pytest.raises(
        UserError, match="78% of the text is in fields that are not read: 'context'"
    ):
        read_chat([path])
    array = tmp_path / "alpaca.json"
    array.write_text('[{"instruction": "Add", "input": "1", "output": "2"}]')
    assert read_chat([array])[0].turns == ("Add\n1", "2")
    path.write_text(
        '{"messages": [{"role": "user", "content": "u", "name": "x"}, '
        '{"role": "assistant", "content": "a"}, {"role": "user", "content": "lost"}]}\n'
    )
    unused = Unused()
    assert read_chat([path], unused=unused, max_unused=1.0)[0].turns == ("u", "a")
    assert "'name' (1)" in unused.notes()[0] and "after the last response (1" in unused.notes()[1]
