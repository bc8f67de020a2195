"""What is fuzzed of data: readers, tokenizers and files of state."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from jaxmodels.data import load_corpus, read_lexicon
from jaxmodels.data.chat.corpora import read_chat
from jaxmodels.data.pairs.files import read_all
from jaxmodels.data.pairs.hrm_read import built_pairs
from jaxmodels.data.pairs.hrm_write import write_hrm
from jaxmodels.data.pairs.rows import Pair, lay_out_pairs
from jaxmodels.data.puzzles.read import read_puzzles
from jaxmodels.data.puzzles.sudoku import make_sudoku
from jaxmodels.data.shards import INDEX, Shards, write_shards
from jaxmodels.data.tokenizers.answers import AnswerCharTokenizer, HybridTokenizer
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer, WordTokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.fit import tokenizer_from_json
from jaxmodels.data.tokenizers.grid import SUDOKU4, GridTokenizer
from jaxmodels.session import Session, load_session, save_session
from tests.fuzz.inputs import files
from tests.fuzz.target import Target
from train.config.read import from_json

DATA = Path(__file__).parents[2] / "Data"
FOLDERS = {"gsm8k": "GSM8K", "cot": "CoT", "hrdoc": "HRDoc", "wikipedia": "wikipedia/AA"}
FOLDERS |= {"metacognition": "metacognition", "sentences": "LL", "chat": "chat"}


def _samples(name: str, suffix: str) -> list[bytes]:
    folder = DATA / FOLDERS[name]
    found = [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == suffix]
    assert found, f"no sample {suffix} in {folder}"
    return [data[:4000] for data in found]


def _file(call: Callable[[Path], Any], name: str, *samples: bytes) -> Target:
    def write(folder: Path, data: bytes) -> Any:
        (folder / name).write_bytes(data)
        return call(folder / name)

    return Target(write, files(*samples))


def _format(name: str, suffix: str) -> Target:
    read = functools.partial(load_corpus, format=name, valid_fraction=0.2, test_fraction=0.2)
    return _file(read, f"a{suffix}", *_samples(name, suffix))


PAIRS = {
    "jsonl": b'{"instruction": "Go", "input": "far", "output": "Gone"}\n{"question": "q", "answer":'
    b' "a", "id": 3}\n',
    "json": b'[{"prompt": "p", "response": "r"}]\n',
    "csv": b'id,Question,Answer\n1,"two\nlines",a\n2,q,"say ""hi"""\n',
    "tsv": b"one\tuno\ntwo\tdos\n",
    "m2": b"S Go far\nA 1 2|||A|||very far|||REQUIRED|||-NONE-|||0\n\nS b\n",
    "tmx": b'<tmx><tu><tuv xml:lang="en"><seg>a<ph/>b</seg></tuv><tuv lang="es"><seg>c</seg></tuv>'
    b"</tu></tmx>",
}
SQUAD = b'{"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": "q", "id":'
SQUAD += b' "1", "answers": [{"text": "a", "answer_start": 0}]}]}]}]}'


def _parallel(folder: Path, sides: tuple[bytes, bytes]) -> Any:
    for name, data in zip("ab", sides, strict=True):
        (folder / name).write_bytes(data)
    return read_all([f"{folder / 'a'}+{folder / 'b'}"])


def _puzzles(suffix: str) -> Target:
    pairs = make_sudoku(2, 3, 0)
    rows = "".join(f"{p.question},{p.answer},7\n" for p in pairs)
    lines = "".join(json.dumps({"puzzle": p.question, "solution": p.answer}) + "\n" for p in pairs)
    samples = {".csv": [f"quizzes,Solutions,id\n{rows}", rows], ".jsonl": [lines]}[suffix]
    read = functools.partial(read_puzzles, cells=16, symbols=SUDOKU4)
    return _file(lambda path: read([path]), f"a{suffix}", *(text.encode() for text in samples))


WORDS = ["ab", "the", "\u0915\u093f", "caf\u00e9", "na\u0131"]


@functools.cache
def _tokenizers() -> dict[str, Any]:
    return {
        "byte": ByteTokenizer(),
        "char": CharTokenizer.fit(WORDS),
        "word": WordTokenizer.fit(WORDS),
        "answer_char": AnswerCharTokenizer(),
        "hybrid": HybridTokenizer.fit(WORDS, max_words=9),
        "bpe": BPETokenizer.fit(WORDS, vocab_size=270),
    }


def _tokenizer(name: str) -> Target:
    """A tokenizer reads every text, accounts for its bytes, and gives known text back."""

    def call(folder: Path, text: str) -> None:
        del folder
        tokenizer = _tokenizers()[name]
        ids, counts = tokenizer.encode(text), tokenizer.byte_counts(text)
        assert ((ids >= 0) & (ids < tokenizer.vocab_size)).all()
        if counts is not None and len(counts):
            assert len(counts) == len(ids) and counts.sum() == len(text.encode())
        if tokenizer.unk is not None:
            named = {"<|unk|>", "<unk>"}
            assert (ids == tokenizer.unk).sum() >= len(tokenizer.unknown(text))
            if not tokenizer.unknown(text) and not any(part in text for part in named):
                assert not (ids == tokenizer.unk).any()
        if name != "word" and not tokenizer.unknown(text):
            assert tokenizer.decode(ids) == text
        assert tokenizer_from_json(tokenizer.to_json()).encode(text).tolist() == ids.tolist()

    texts = st.text(max_size=40) | st.lists(st.sampled_from([*WORDS, " ", "<|eos|>", "<eos>"])).map(
        "".join
    )
    return Target(call, texts)


def _rows(folder: Path, texts: tuple[str, str]) -> Any:
    """Rows of every mode hold what fits, and nothing else is accepted."""
    del folder
    for mode in ("nar", "prefix_ar", "as_written"):
        rows = lay_out_pairs([Pair(*texts)], _tokenizers()["bpe"], mode, 24)
        assert rows.inputs.shape == rows.targets.shape == (1, 24)


@functools.cache
def _built_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        out, pairs = Path(folder) / "out", [Pair(f"q {i}", f"a {i}") for i in range(4)]
        parts = pairs[:3], pairs[3:]
        write_hrm(out, *parts, AnswerCharTokenizer(), mode="nar", seq_len=16, origin={})
        names = (path for path in sorted(out.rglob("*")) if path.is_file())
        return {str(path.relative_to(out)): path.read_bytes() for path in names}


def _built(folder: Path, change: tuple[str, bytes]) -> Any:
    for name, data in (_built_files() | dict([change])).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return built_pairs(folder, "nar", 16)


def _built_changes() -> st.SearchStrategy:
    return st.sampled_from(sorted(_built_files())).flatmap(
        lambda name: st.tuples(st.just(name), files(_built_files()[name]))
    )


def _shards(folder: Path, data: bytes) -> Any:
    write_shards(folder, [(np.ones((2, 3)), np.zeros(2))])
    (folder / INDEX).write_bytes(data)
    return list(Shards(folder, 3))


@functools.cache
def _shard_index() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, [(np.ones((2, 3)), np.zeros(2))])
        return (Path(folder) / INDEX).read_bytes()


class _Model:
    """The least that a session asks of a model."""

    config = None

    def initial_state(self, batch: int) -> dict[str, np.ndarray]:
        return {"state": np.zeros((batch, 2), np.float32)}


@functools.cache
def _session_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        state = {"state": np.ones((1, 2), np.float32)}
        save_session(Session(state, np.ones((1, 3), np.float32), 4, 2), _Model(), path)
        return path.read_bytes()


CONFIG = b'{"model": "rwkv", "steps": 3, "data": {"format": "text", "paths": ["a"], "columns": []}}'
TEXTS = b"line one\nline two of some words\n\nanother line\n" * 4

TARGETS: dict[str, Callable[[], Target]] = {
    "text": lambda: _file(load_corpus, "a.txt", TEXTS),
    "text as characters": lambda: _file(
        functools.partial(load_corpus, tokenizer="char", valid_fraction=0.3), "a.txt", TEXTS
    ),
    "text as words": lambda: _file(
        functools.partial(load_corpus, tokenizer="word", valid_fraction=0.3), "a.txt", TEXTS
    ),
    "sentences": lambda: _format("sentences", ".txt"),
    "gsm8k": lambda: _format("gsm8k", ".jsonl"),
    "cot lines": lambda: _format("cot", ".jsonl"),
    "cot object": lambda: _format("cot", ".json"),
    "hrdoc": lambda: _format("hrdoc", ".json"),
    "metacognition": lambda: _format("metacognition", ".jsonl"),
    "wikipedia": lambda: _format("wikipedia", ""),
    "chat": lambda: _file(lambda p: read_chat([p]), "a.jsonl", *_samples("chat", ".jsonl")),
    "chat array": lambda: _file(lambda p: read_chat([p]), "a.json", PAIRS["json"]),
    **{
        f"pairs .{kind}": functools.partial(
            _file, lambda path: read_all([str(path)]), f"a.{kind}", sample
        )
        for kind, sample in PAIRS.items()
    },
    "pairs by column": lambda: _file(
        lambda path: read_all([str(path)], columns=(2, 1)), "a.tsv", PAIRS["tsv"]
    ),
    "squad": lambda: _file(lambda path: read_all([str(path)]), "a.json", SQUAD),
    "parallel": lambda: Target(_parallel, st.tuples(files(b"a\nb\n"), files(b"c\nd\n"))),
    "sudoku .csv": lambda: _puzzles(".csv"),
    "sudoku .jsonl": lambda: _puzzles(".jsonl"),
    "lexicon": lambda: _file(read_lexicon, "a.tsv", b"word\tcategory\tlemma\nran\tverb\trun\n"),
    "built folder": lambda: Target(_built, _built_changes()),
    "shards": lambda: Target(_shards, files(_shard_index())),
    "tokenizer.json": lambda: _file(
        lambda path: tokenizer_from_json(path.read_text("utf-8", "replace")),
        "tokenizer.json",
        *(t.to_json().encode() for t in [*_tokenizers().values(), GridTokenizer(SUDOKU4)]),
    ),
    "config.json": lambda: _file(
        lambda path: from_json(path.read_text("utf-8", "replace"), "config.json"),
        "config.json",
        CONFIG,
    ),
    "session": lambda: _file(lambda p: load_session(p, _Model()), "s", _session_bytes()),
    "rows": lambda: Target(_rows, st.tuples(st.text(max_size=20), st.text(max_size=20))),
    **{
        f"tokenizer {name}": functools.partial(_tokenizer, name)
        for name in ("byte", "char", "word", "answer_char", "hybrid", "bpe")
    },
}
