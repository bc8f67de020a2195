"""Readers: the samples that are shipped, the labels they bring, and lines that do not fit."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxmodels.data import (
    FORMATS,
    ByteTokenizer,
    Document,
    WordTokenizer,
    label_classes,
    load_corpus,
    make_stream,
    read_lexicon,
    sample_spans,
    to_document,
)
from jaxmodels.errors import UserError

ROOT = Path(__file__).parents[2]
DATA = ROOT / "Data"
REAL = Path(os.environ.get("JAXMODELS_TEST_DATA", ROOT.parent / "shared" / "data"))


def records(name, file):
    return list(FORMATS[name].read(DATA / file))


def labelled_text(record, name):
    """{label: text} of a record's spans."""
    out = {}
    for start, stop, value in record.spans[name]:
        out.setdefault(value, []).append(record.text[start:stop].decode())
    return out


@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [
        ("gsm8k", "GSM8K", 4),
        ("cot", "CoT", 4),
        ("hrdoc", "HRDoc", 1),
        ("wikipedia", "wikipedia/AA", 4),
        ("sentences", "LL", 32),
    ],
)
def test_every_sample_folder_loads_and_streams(name, folder, count):
    corpus = load_corpus(DATA / folder, format=name, valid_fraction=0, test_fraction=0)
    assert len(corpus.train) == count
    assert set(FORMATS[name].labels) == set(label_classes(corpus.train))
    batch = next(iter(make_stream(corpus.train, batch_size=2, seq_len=32, seed=0, mode="packed")))
    assert batch["weights"].sum() > 0


def test_gsm8k_text_and_steps():
    found = records("gsm8k", "GSM8K/sample.jsonl")
    ends = [record.text.decode().rsplit("#### ", 1)[1] for record in found]
    assert ends == ["29\n", "145\n", "2000\n", "2.25\n"]
    record = found[0]
    assert record.text.startswith(b"Question: A gardener") and b"<<" not in record.text
    assert labelled_text(record, "step_targets") == {
        0: ["The rows hold 4*6 = 24 tulips.\n"],
        1: ["With the later ones there are 24+5 = 29 tulips.\n"],
        2: ["#### 29\n"],
    }


@pytest.mark.skipif(not (REAL / "gsm8k").is_dir(), reason="real GSM8K files are not here")
def test_real_gsm8k_files_are_read_completely():
    for part, count in (("train", 7473), ("test", 1319)):
        found = list(FORMATS["gsm8k"].read(REAL / "gsm8k" / f"{part}.jsonl"))
        assert len(found) == count
        assert all(len(record.spans["step_targets"]) > 1 for record in found)
        assert not any(b"<<" in record.text for record in found)


def test_cot_steps():
    record, other = records("cot", "CoT/sample.json")
    assert labelled_text(record, "step_targets") == {
        0: ["Penguins do not fly. "],
        1: ["A nest in a tree is reached by flying or climbing. "],
        2: ["Penguins breed on the ground or in burrows.\n"],
        3: ["no\n"],
    }
    assert labelled_text(other, "step_targets")[3] == ["Cem\n"]
    lines = records("cot", "CoT/sample.jsonl")[0]
    assert labelled_text(lines, "step_targets")[1] == ["Five of them are blue, three red.\n"]


def test_step_targets_are_aligned_with_tokens():
    record = records("cot", "CoT/sample.json")[0]
    by_byte = to_document(record, ByteTokenizer())
    text = record.text.decode()
    first = text.index("Penguins do")
    assert (by_byte.labels["step_targets"][:first] == -1).all()
    assert by_byte.labels["step_targets"][first] == 0
    words = WordTokenizer.fit([record.text])
    by_word = to_document(record, words)
    steps = by_word.labels["step_targets"]
    assert len(steps) == len(by_word) and steps[-1] == 3 and set(np.diff(steps)) <= {0, 1}
    fly = by_word.tokens.tolist().index(words.encode("fly")[0])
    assert steps[fly] == 0 and steps[fly + 2] == 1


def test_hrdoc_levels():
    (record,) = records("hrdoc", "HRDoc/sample.json")
    lines = record.text.decode().split("\n")
    assert lines[2:6] == [
        "1 Introduction",
        "  Bees find more flowers in a town than one",
        "  would think.",
        "  Roofs are warm and gardens are many.",
    ]
    assert lines[6] == "2 Method" and lines[7] == "  2.1 Hives" and lines[8].startswith("    We ")
    assert sorted(labelled_text(record, "level_targets")) == [0, 1, 2]


def test_spans_begin_at_lines_and_repeat_with_the_seed():
    text = b"".join(b"%04d is a line\n" % i for i in range(300))
    long = Document("long", ByteTokenizer().encode(text))
    short = Document("short", ByteTokenizer().encode(b"tiny"))
    spans = sample_spans([short, long], span_len=64, count=200, seed=3)
    assert len(spans) == 200 and all(32 <= len(s) <= 64 for s in spans)
    assert all(bytes(s.tokens[:4]).isdigit() and bytes(s.tokens) in text for s in spans)
    assert len({s.name for s in spans}) > 100
    assert [s.name for s in spans] == [
        s.name for s in sample_spans([short, long], span_len=64, count=200, seed=3)
    ]
    assert [s.name for s in spans] != [
        s.name for s in sample_spans([short, long], span_len=64, count=200, seed=4)
    ]
    with pytest.raises(UserError, match="span_len"):
        sample_spans([short], span_len=64, count=1, seed=0)


def test_wikipedia_kinds(tmp_path):
    articles = records("wikipedia", "wikipedia/AA/wiki_00") + records(
        "wikipedia", "wikipedia/AA/wiki_01"
    )
    assert [a.text.split(b"\n\n")[0] for a in articles] == [
        b"Lantern moss",
        b"Quiet bridge",
        b"Salt clock",
        b"Tin harvest",
    ]
    assert all(a.text.count(a.text.split(b"\n")[0] + b"\n") == 1 for a in articles)
    plain = tmp_path / "p.txt"
    plain.write_text("just text\n")
    assert [r.text for r in FORMATS["wikipedia"].read(plain)] == [b"just text\n"]


def test_sentences_are_documents():
    sentences = records("sentences", "LL/Random English Sentences.txt")
    assert sentences[0].text == b"The cat sleeps on the warm stove.\n"
    assert sentences[1].name.endswith("Sentences.txt:2")


GOOD = {"question": "q", "answer": "a\n#### 1"}
LINE = {"text": "t", "line_id": 0, "parent_id": -1, "relation": "contain"}
COT = {"source": "s", "rationale": "r", "target": "t"}


@pytest.mark.parametrize(
    ("name", "file", "content", "place", "message"),
    [
        ("gsm8k", "a.jsonl", json.dumps(GOOD) + "\n\n{oops\n", ":3", "not valid JSON"),
        ("gsm8k", "a.jsonl", "[1]\n", ":1", "JSON object"),
        ("gsm8k", "a.jsonl", '{"question": "q"}\n', ":1", "'answer' is missing"),
        ("gsm8k", "a.jsonl", '{"question": "q", "answer": 5}\n', ":1", "'answer' must be str"),
        ("gsm8k", "a.jsonl", json.dumps(GOOD | {"answer": "no mark"}), ":1", "#### <number>"),
        ("gsm8k", "a.jsonl", json.dumps(GOOD | {"answer": "x\n#### many"}), ":1", "#### <number>"),
        ("cot", "a.jsonl", json.dumps(COT | {"rationale": " "}), ":1", "'rationale' is empty"),
        ("cot", "a.json", '{"k": {\n"source": "s"},\n', ":3", "not valid JSON"),
        (
            "cot",
            "a.json",
            json.dumps({"x": COT, "k": {"source": "s"}}, indent=0),
            ":7",
            "'rationale'",
        ),
        ("cot", "a.json", "[]", "", "expected an object"),
        ("hrdoc", "a.json", json.dumps([LINE, {**LINE, "line_id": "1"}]), ": entry 1", "'line_id'"),
        ("hrdoc", "a.json", json.dumps([{**LINE, "parent_id": 7}]), "", "parent_id 7"),
        ("hrdoc", "a.json", json.dumps([{**LINE, "parent_id": 0}]), "", "its own ancestor"),
        ("hrdoc", "a.json", json.dumps(["t"]), ": entry 0", "must be an object"),
        ("wikipedia", "wiki_00", '{"title": "t"}\n', ":1", "'text' is missing"),
        ("wikipedia", "wiki_00", '<doc id="1" title="t">\nx\n', ":1", "without </doc>"),
    ],
)
def test_errors_of_malformed_files_name_line_and_fix(tmp_path, name, file, content, place, message):
    path = tmp_path / file
    path.write_text(content)
    with pytest.raises(UserError) as error:
        list(FORMATS[name].read(path))
    text = str(error.value)
    assert text.startswith(f"{path}{place}") and message in text and "\n" not in text


def test_lexical_resources():
    lexicon = read_lexicon(DATA / "complete_datasets")
    assert lexicon["chased"] == ("verb", "chase")
    assert lexicon["sang"] == ("verb", "sang") and lexicon["bread"][0] == "noun"
    assert lexicon["wandered"][0] == "verb" and lexicon["we"][0] == "pronoun"
    assert "build" not in lexicon


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.tsv", "word\tkind\tlemma\n", ":1: header"),
        ("a.tsv", "word\tcategory\tlemma\nrun\tverb\n", ":2: expected 3"),
        (
            "a.tsv",
            "word\tcategory\tlemma\nrun\tverbs\trun\n",
            ":2: unknown category 'verbs'; did you",
        ),
        ("words_x.txt", "run\n", "file name: unknown category 'words'"),
        ("a.tsv", "\x1c\u2003\n", "a.tsv: the file is empty"),  # spaces to str, not to bytes
    ],
)
def test_malformed_lexicons(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as error:
        read_lexicon(tmp_path / file)
    assert message in str(error.value)
