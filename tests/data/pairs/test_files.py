"""Files of questions with answers, format by format."""

import json

import pytest

from jaxmodels.data.pairs.files import read_all, read_pairs
from jaxmodels.errors import UserError


def test_questions_are_read_in_composed_characters(tmp_path):
    (tmp_path / "a.tsv").write_text("adio\u0301s\tcamio\u0301n\n")
    assert next(read_pairs(tmp_path / "a.tsv")).question == "adi\u00f3s"


def test_json_lines_and_tables(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"input": "a", "output": "b"}\n\n{"question": "c", "answer": " d "}\n')
    assert [(p.question, p.answer, p.task) for p in read_pairs(lines)] == [
        ("a", "b", "a"),
        ("c", "d", "a"),
    ]
    table = tmp_path / "b.tsv"
    table.write_text("Hello\tHola\tignored\nBye\tAdiós\n", encoding="utf-8")
    assert [(p.question, p.answer) for p in read_pairs(table)] == [
        ("Hello", "Hola"),
        ("Bye", "Adiós"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"input": "a", "output": "b"}\n{"input": "a"}\n', ":2: expected the fields"),
        ("a.jsonl", '{"input": "a", "output": 3}\n', ":1: the answer must be text, got 3"),
        ("a.jsonl", '{"input": "a", "output": " "}\n', ":1: the answer is empty"),
        ("a.jsonl", '{"input": "a", "output": "\\ud800"}\n', ":1: an unpaired surrogate"),
        ("a.tsv", "one\ttwo\nthree\n", ":2: expected question, tab, answer"),
        ("a.csv", "id,article\n1,text\n", ":1: expected the fields input and output or "),
        (
            "a.csv",
            "article,highlights\nlong,short\nlong\n",
            ":3: the answer must be text, got None",
        ),
        ("a.csv", 'article,highlights\n"long"x,short\n', ":2: not valid CSV"),
        ("a.json", "[]", "expected SQuAD, an object with the field data, got a JSON list"),
        ("a.json", '{"data": [{"title": "a"}]}', "an article: field 'paragraphs' is missing"),
        ("a.json", '{"data": [3]}', "an article: expected an object with the field 'paragraphs'"),
    ],
)
def test_malformed_lines_are_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        list(read_pairs(tmp_path / name))


def test_csv_with_a_header(tmp_path):
    table = tmp_path / "news.csv"
    text = "x" * 200_000  # more than Python's reader takes without being told
    table.write_text(f'id,article,highlights\n1,"Long,\nof two lines","Short"\n2,{text},Brief\n')
    found = [(p.question, p.answer, p.task) for p in read_pairs(table)]
    assert found == [("Long,\nof two lines", "Short", "news"), (text, "Brief", "news")]


def test_squad(tmp_path):
    asked = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Ada"}, {"text": "Ada L."}]},
        {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    document = {"data": [{"paragraphs": [{"context": "Ada came.", "qas": asked}]}]}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document))
    assert [(p.question, p.answer) for p in read_pairs(path)] == [("Ada came.\nWho?", "Ada")]
    asked[0]["answers"] = [{"start": 3}]
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="question a: field 'text' is missing"):
        list(read_pairs(path))


def test_parallel_files(tmp_path):
    (tmp_path / "a.en").write_text("Hello\n\nBye\n")
    (tmp_path / "a.es").write_text("Hola\n\nAdi\u00f3s\n", encoding="utf-8")
    (tmp_path / "c.tsv").write_text("one\tuno\n")
    beside = f"{tmp_path / 'a.en'}+{tmp_path / 'a.es'}"
    found = [(p.question, p.answer) for p in read_all([beside, str(tmp_path / "c.tsv")], "es: ")]
    assert found == [("es: Hello", "Hola"), ("es: Bye", "Adi\u00f3s"), ("es: one", "uno")]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("one\n", "a.en: 2 lines, but .*a.es has 1; parallel files"),
        ("uno\n \n", "a.en:2: the answer is empty"),
        (None, "expected two files, QUESTIONS.ANSWERS; .*a.es is not a file"),
        (" \nuno\n", "a.en:1: the answer is empty"),
    ],
)
def test_parallel_files_that_do_not_match(tmp_path, other, words):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    if other is not None:
        (tmp_path / "a.es").write_text(other)
    with pytest.raises(UserError, match=words):
        read_all([f"{tmp_path / 'a.en'}+{tmp_path / 'a.es'}"])


def test_files_are_read_once_and_a_plus_may_be_part_of_a_name(tmp_path):
    folder = tmp_path / "c++"
    folder.mkdir()
    path = folder / "a.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n')
    (folder / "other.json").write_text("{}")  # of a folder, files of questions alone are read
    for given in ([str(path)], [str(path), str(folder)], [f"{folder}/*.jsonl"]):
        assert [(p.question, p.answer) for p in read_all(given)] == [("a", "b")]
    empty = tmp_path / "empty.csv"
    empty.write_text("input,output\n")
    with pytest.raises(UserError, match=r"empty\.csv: contains no question"):
        read_all([str(empty)])
