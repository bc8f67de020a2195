"""Strategies for the bytes of a file: damaged samples, JSON of any shape, lines, and noise."""

import json
from typing import Any

from hypothesis import strategies as st

# What readers trip over: line ends of other systems, byte order marks, halves of surrogate pairs,
# combining marks, quotes, names of fields, numbers of thousands of digits, deep nesting.
PIECES = [
    b"\n",
    b"\r\n",
    b"\r",
    b"\t",
    b",",
    b'"',
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
    b"\x0b",
    b"\\ud83d",
    b"\\ude00",
    b"\\\\ud83d\\ude00",
    "\u0915\u093f\u0301".encode(),
    "\u4e09\u52a0".encode(),
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 1500,
    b"####",
    b"<<1=1>>",
    b"<doc ",
    b"</doc>",
    b"question",
    b"answer",
    b"<|eos|>",
]
NAMES = ["question", "answer", "input", "output", "instruction", "messages", "role", "content"]
NAMES += ["text", "title", "kind", "source", "rationale", "target", "data", "paragraphs", "qas"]
NAMES += ["context", "answers", "line_id", "parent_id", "relation", "intent", "answerable", "Q"]


@st.composite
def damaged(draw, samples: list[bytes]) -> bytes:
    """A sample with up to six pieces cut, copied or put in, mostly one or two."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.sampled_from([1, 1, 2, 0, 4, 6]))):
        at, to = sorted(draw(st.integers(0, len(data))) for _ in range(2))
        kind = draw(st.sampled_from(["cut", "copy", "piece", "noise", "truncate"]))
        if kind == "cut":
            data = data[:at] + data[to:]
        elif kind == "copy":
            data = data[:to] + data[at:]
        elif kind == "piece":
            data = data[:at] + draw(st.sampled_from(PIECES)) + data[at:]
        elif kind == "noise":
            data = data[:at] + draw(st.binary(max_size=6)) + data[at:]
        else:
            data = data[:to]
    return data[: 1 << 20]


def _documents(sample: bytes) -> list[Any]:
    """Return the JSON values of a sample, one or one on each line; [] if it is no JSON."""
    for parts in ([sample], sample.splitlines()):
        try:
            return [json.loads(part) for part in parts if part.strip()]
        except ValueError:
            continue
    return []


def _retold(draw, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _retold(draw, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_retold(draw, inner) for inner in value]
    if isinstance(value, str):
        texts = [st.just(value), st.just(value), st.text(max_size=20).map(lambda t: value + t)]
        return draw(st.one_of(*texts, st.text(min_size=1, max_size=20)))
    return value


@st.composite
def retold(draw, samples: list[bytes]) -> bytes:
    """A sample of JSON whose texts are others, in the same fields; of no JSON, a damaged one."""
    rows = _documents(draw(st.sampled_from(samples)))
    if not rows:
        return draw(damaged(samples))
    return b"\n".join(json.dumps(_retold(draw, row)).encode() for row in rows)


def json_values() -> st.SearchStrategy:
    """JSON values whose objects have the names that readers look for."""
    leaves = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=12)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5)
        ),
        max_leaves=12,
    )


def json_files() -> st.SearchStrategy:
    """Files with one JSON value, or one on each line; text is escaped or not."""
    values = st.lists(json_values(), min_size=1, max_size=3)
    return st.builds(
        lambda rows, ascii, end: end.join(
            json.dumps(row, ensure_ascii=ascii).encode(errors="surrogatepass") for row in rows
        ),
        values,
        st.booleans(),
        st.sampled_from([b"\n", b"\r\n", b""]),
    )


def files(*samples: bytes) -> st.SearchStrategy:
    """Files: samples, damaged or with other texts, and JSON, pieces and noise."""
    pieces = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12).map(b"".join)
    changed = damaged(list(samples)) | retold(list(samples))
    return st.one_of(changed, changed, json_files(), pieces, st.binary())
