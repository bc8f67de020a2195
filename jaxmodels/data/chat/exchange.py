"""Exchanges of a conversation, and their rows of bytes (docs/systems.md, R-19 to R-21).

    User: hello\\nModel: hi\\nUser: how are you?\\nModel: PAD ... PAD BEGIN fine, thanks END PAD ...

The prompt with BEGIN fills whole chunks, so that the response starts a new one. The targets are the
bytes after BEGIN, up to and including END. The three marks are bytes that UTF-8 never uses.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxmodels.data.tokenizers.byte_word import ByteTokenizer
from jaxmodels.errors import UserError

PAD, BEGIN, END = 0xFF, 0xFE, 0xFD
SLOT = 32  # bytes, to which prompts are rounded up to decide what fits into a row
ROLES = ("User", "Model")


@dataclass(frozen=True)
class Exchange:
    """What has been said, and the model's response.

    Attributes:
      turns: the conversation before the response, the user's and the model's turns alternating; the
        last one is the user's.
      response: the model's response.
      source: corpus or file, for reports.
      intent: name of the intent; "" if unlabelled.
      answerable: whether the response answers; None if unlabelled.
    """

    turns: tuple[str, ...]
    response: str
    source: str = ""
    intent: str = ""
    answerable: bool | None = None


@dataclass(frozen=True)
class ChatCorpus:
    """Exchanges in three splits.

    Attributes:
      name: name for reports.
      train, valid, test: the exchanges.
      split: description of the split.
    """

    name: str
    train: tuple[Exchange, ...]
    valid: tuple[Exchange, ...]
    test: tuple[Exchange, ...]
    split: str

    @property
    def tokenizer(self) -> ByteTokenizer:
        """Return the tokenizer: bytes."""
        return ByteTokenizer()

    def fingerprint(self) -> str:
        """Return the SHA-256 over all exchanges."""
        digest = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            digest.update(f"split:{len(part)};".encode())
            for x in part:
                fields = *x.turns, x.response, x.intent, str(x.answerable)
                digest.update("\0".join(fields).encode() + b"\1")
        return digest.hexdigest()


class ChatRows(NamedTuple):
    """Rows of many exchanges, each array with leading axis n.

    Attributes:
      inputs, targets: int32 (n, seq_len); weights: float32 (n, seq_len), 1 on the response.
      intent, answerable: int32 (n,), -1 without a label.
      kept: int64 (n,), index of the exchange; those that do not fit are left out.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    intent: np.ndarray
    answerable: np.ndarray
    kept: np.ndarray

    def batch(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Return a batch of copies of the rows at these indices; -1 is padding, without targets.

        `reset`, bool (rows, seq_len), starts every row from the initial state.
        """
        batch = {name: getattr(self, name)[chosen] for name in self._fields if name != "kept"}
        padding = chosen < 0
        batch["weights"][padding] = 0.0
        batch["intent"][padding] = batch["answerable"][padding] = -1
        batch["reset"] = np.zeros(batch["inputs"].shape, bool)
        batch["reset"][:, 0] = True
        return batch


def one_line(text: str) -> str:
    """Return a text on one line: line breaks would begin another role."""
    return " ".join(text.split())


def prompt_of(turns: Sequence[str]) -> str:
    """Return the prompt of a conversation whose last turn is the user's, up to "Model: "."""
    first = (len(turns) + 1) % 2  # the last turn is the user's
    lines = [f"{ROLES[(i + first) % 2]}: {one_line(turn)}\n" for i, turn in enumerate(turns)]
    return "".join(lines) + f"{ROLES[1]}: "


def prompt_bytes(turns: Sequence[str], chunk_size: int, most: int) -> np.ndarray | None:
    """Return the prompt padded to whole chunks with BEGIN at its end, int32 (length,).

    The oldest turns are left out until it has at most `most` bytes in whole chunks, of `SLOT` bytes
    at least, so that models with smaller chunks or none read the same turns. None if the last does
    not fit.
    """
    for first in range(len(turns)):
        text = np.frombuffer(prompt_of(turns[first:]).encode(), np.uint8)
        if len(text) + len(prompt_end(len(text), max(chunk_size, SLOT))) <= most:
            return np.concatenate([text, prompt_end(len(text), chunk_size)])
    return None


def prompt_end(size: int, chunk_size: int) -> np.ndarray:
    """Return the padding and BEGIN after `size` bytes of a prompt, int32 (length,)."""
    end = np.full(-size % chunk_size or chunk_size, PAD, np.int32)
    end[-1] = BEGIN
    return end


def lay_out(
    exchanges: Sequence[Exchange], seq_len: int, chunk_size: int, intents: Sequence[str] = ()
) -> ChatRows:
    """Lay out exchanges as rows.

    Args:
      exchanges: those to lay out; a response that does not fit beside its last turn is left out.
      seq_len: bytes of a row.
      chunk_size: the prompt fills a multiple of it; 1 for models without chunks.
      intents: names of the classes, in order; exchanges of other intents have no label.

    Raises:
      UserError: none fits.
    """
    rows, kept = [], []
    for number, x in enumerate(exchanges):
        response = np.frombuffer(one_line(x.response).encode(), np.uint8)
        prompt = prompt_bytes(x.turns, chunk_size, seq_len - len(response))
        if prompt is None or not len(response):
            continue
        inputs, targets = np.full((2, seq_len), PAD, np.int32)
        weights = np.zeros(seq_len, np.float32)
        begin = len(prompt)
        inputs[:begin], inputs[begin : begin + len(response)] = prompt, response
        answer = slice(begin - 1, begin + len(response))
        targets[answer], weights[answer] = [*response, END], 1.0
        intent = intents.index(x.intent) if x.intent in intents else -1
        answerable = -1 if x.answerable is None else int(x.answerable)
        rows.append((inputs, targets, weights, np.int32(intent), np.int32(answerable)))
        kept.append(number)
    if not rows:
        raise UserError(f"seq_len: none of {len(exchanges)} exchanges fits in {seq_len} bytes")
    return ChatRows(*(np.stack(column) for column in zip(*rows, strict=True)), np.array(kept))
