"""Files of questions with answers, format by format."""

import json

import pytest

from jaxmodels.data.pairs.files import Reading, read_all, read_pairs
from jaxmodels.data.unused import Unused
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
    table.write_text("Hello\tHola\t\nBye\tAdiós\n", encoding="utf-8")
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
        ("a.tsv", "one\ttwo\tthree\n", ":1: expected question, tab, answer, got 3 columns; name"),
        ("a.tsv", "question\tanswer\none\n", ":2: expected 2 cells as in the header, got 1"),
        ("a.csv", "id,article\n1,text\n", ":1: expected the fields input and output, or one of in"),
        ("a.csv", "question,answer\na,b,c\n", ":2: expected 2 cells as in the header, got 3"),
        ("a.csv", "question,answer,answer\na,b,c\n", ":1: two columns are named 'answer'"),
        ("a.jsonl", '{"input": "a", "input": "b", "output": "c"}\n', ":1: .*'input' is twice"),
        ("a.jsonl", '{"instruction": "a", "input": 3, "output": "c"}\n', ":1: field 'input' must"),
        ("a.json", "[3]", "entry 0: expected a JSON object, got 3"),
        ("a.json", '[{"input": "a", "output": "\\ud800"}]', ":1: an unpaired surrogate"),
        ("a.jsonl", "[" * 100_000 + "\n", ":1: JSON that cannot be read"),
        ("a.jsonl", '{"input": ' + "1" * 5000 + "}\n", ":1: JSON that cannot be read"),
        (
            "a.csv",
            "article,highlights\nlong,short\nlong\n",
            ":3: expected 2 cells as in the header, got 1",
        ),
        ("a.csv", 'article,highlights\n"long"x,short\n', ":2: not valid CSV"),
        ("a.json", "3", "expected an array of objects, or SQuAD, an object with the field data, g"),
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


def texts(path, columns=()):
    return [(p.question, p.answer) for p in read_pairs(path, Reading(columns))]


def test_an_instruction_is_part_of_the_question(tmp_path):
    alpaca = {"instruction": "Double it.", "input": "number 13", "output": "26"}
    path = tmp_path / "a.jsonl"
    rows = [alpaca, alpaca | {"input": ""}, {"instruction": "Go.", "response": "Gone."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [("Double it.\nnumber 13", "26"), ("Double it.", "26"), ("Go.", "Gone.")]
    assert texts(path) == expected
    array = tmp_path / "alpaca_data.json"
    array.write_text(json.dumps(rows))
    assert texts(array) == expected


def test_columns_are_named_or_numbered(tmp_path):
    table = tmp_path / "a.tsv"
    table.write_text("0.5\tHello\tHola\n0.2\tBye\tAdios\n")
    assert texts(table, ("2", "3")) == [("Hello", "Hola"), ("Bye", "Adios")]
    table.write_text("score\tTarget\tSource\n0.5\tHola\tHello\n")
    assert texts(table) == texts(table, ("Source", "Target")) == [("Hello", "Hola")]
    table = tmp_path / "a.csv"
    table.write_text("Answer,topic,Question\nAda,math,Who?\n")
    assert texts(table) == [("Who?", "Ada")]
    assert texts(table, ("topic", "Question", "Answer")) == [("math\nWho?", "Ada")]
    with pytest.raises(UserError, match=r"a.csv:1: config.data.columns: no field 'text'; got the"):
        texts(table, ("text", "Answer"))
    with pytest.raises(UserError, match="one name alone, 'Answer'"):
        texts(table, ("Answer",))


def test_text_in_other_fields_is_told_and_limited(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"question": "Who came to the town?", "answer": "Ada", "id": 7}
    path.write_text(json.dumps(row) + "\n")
    unused = Unused()
    read_all([str(path)], unused=unused)
    assert unused.notes() == (f"not used: fields 'id' (1) (first: {path}:1)",)
    path.write_text(json.dumps(row | {"context": "Ada came to the town. " * 5}) + "\n")
    with pytest.raises(UserError, match=r"82% of the text .* 'context' .*config.data.columns=ques"):
        read_all([str(path)])
    read_all([str(path)], columns=("context", "question", "answer"))
    read_all([str(path)], columns=("question", "answer"))  # the user has said so


def test_a_prefix_is_in_composed_characters(tmp_path):
    (tmp_path / "a.tsv").write_text("chat\tcat\n")
    (pair,) = read_all([str(tmp_path / "a.tsv")], "\n\nRe\u0301pond: ")
    assert pair.question == "\n\nR\u00e9pond: chat"


def test_squad(tmp_path):
    asked = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Ada"}, {"text": "Ada L."}]},
        {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    document = {"data": [{"paragraphs": [{"context": "Ada came.", "qas": asked}]}]}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document))
    reading = Reading()
    found = [(p.question, p.answer) for p in read_pairs(path, reading)]
    assert found == [("Ada came.\nWho?", "Ada")]
    says = "\n".join(reading.unused.notes())
    assert "without an answer (1; " in says and "further answers to a question (1; " in says
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
