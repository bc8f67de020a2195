"""Exchanges of a conversation, and their rows of tokens (docs/systems.md, R-19 to R-21).

    User: hello\\nModel: hi\\nUser: how are you?\\nModel: PAD ... PAD BEGIN fine, thanks END PAD ...

The prompt with BEGIN fills whole chunks, so that the response starts a new one. The targets are the
tokens after BEGIN, up to and including END. The three marks are the last ids of the vocabulary: of
bytes, the default, three that UTF-8 never uses; see `tokens.py` for others.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer
from jaxmodels.errors import UserError

PAD, BEGIN, END = 0xFF, 0xFE, 0xFD
SLOT = 32  # tokens, to which prompts are rounded up to decide what fits into a row
BYTES = ByteTokenizer()
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
      tokenizer: its last three ids are the marks.
      notes: lines on what of the input is not used, or not known to the tokenizer.
    """

    name: str
    train: tuple[Exchange, ...]
    valid: tuple[Exchange, ...]
    test: tuple[Exchange, ...]
    split: str
    tokenizer: Tokenizer = BYTES
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return the SHA-256 over all exchanges, and over a tokenizer that was fitted on them."""
        fitted = self.tokenizer != BYTES
        digest = hashlib.sha256(self.tokenizer.to_json().encode() if fitted else b"")
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
      sizes: int64 (n, 2), bytes of the text of the prompt, and of the response with its end as one.
      cut: int64 (n,), turns at the beginning of the prompt that do not fit.
      kept: int64 (n,), index of the exchange; those that do not fit are left out.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    intent: np.ndarray
    answerable: np.ndarray
    sizes: np.ndarray
    cut: np.ndarray
    kept: np.ndarray

    def batch(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Return a batch of copies of the rows at these indices; -1 is padding, without targets.

        `reset`, bool (rows, seq_len), starts every row from the initial state.
        """
        fields = [name for name in self._fields if name not in ("sizes", "cut", "kept")]
        batch = {name: getattr(self, name)[chosen] for name in fields}
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


def prompt_ids(
    turns: Sequence[str], chunk_size: int, most: int, tokenizer: Tokenizer
) -> tuple[int, str, np.ndarray] | None:
    """Return (number of turns left out, text of the others, its ids), or None.

    The ids, int32 (length,), are padded to whole chunks with BEGIN at the end. The oldest turns are
    left out until there are at most `most`, in whole chunks of `SLOT` or more, so that models with
    smaller chunks or none read the same turns. None if the last turn does not fit.
    """
    for first in range(len(turns)):
        text = prompt_of(turns[first:])
        ids = tokenizer.encode(text)
        if len(ids) + len(prompt_end(len(ids), max(chunk_size, SLOT))) <= most:
            end = prompt_end(len(ids), chunk_size, tokenizer.vocab_size)
            return first, text, np.concatenate([ids, end])
    return None


def prompt_end(size: int, chunk_size: int, vocab_size: int = BYTES.vocab_size) -> np.ndarray:
    """Return the padding and BEGIN after `size` tokens of a prompt, int32 (length,)."""
    end = np.full(-size % chunk_size or chunk_size, vocab_size - 1, np.int32)
    end[-1] = vocab_size - 2
    return end


def lay_out(
    exchanges: Sequence[Exchange],
    seq_len: int,
    chunk_size: int,
    intents: Sequence[str] = (),
    tokenizer: Tokenizer = BYTES,
) -> ChatRows:
    """Lay out exchanges as rows.

    Args:
      exchanges: those to lay out. Left out are responses that do not fit beside their last turn,
        and those of which the tokenizer does not give back the text.
      seq_len: tokens of a row.
      chunk_size: the prompt fills a multiple of it; 1 for models without chunks.
      intents: names of the classes, in order; exchanges of other intents have no label.
      tokenizer: its last three ids are the marks.

    Raises:
      UserError: none fits.
    """
    pad, rows, kept = tokenizer.vocab_size - 1, [], []
    for number, x in enumerate(exchanges):
        text = one_line(x.response)
        response = tokenizer.encode(text)
        found = prompt_ids(x.turns, chunk_size, seq_len - len(response), tokenizer)
        if found is None or not len(response) or tokenizer.decode(response) != text:
            continue
        left_out, asked, prompt = found
        inputs, targets = np.full((2, seq_len), pad, np.int32)
        weights = np.zeros(seq_len, np.float32)
        begin = len(prompt)
        inputs[:begin], inputs[begin : begin + len(response)] = prompt, response
        answer = slice(begin - 1, begin + len(response))
        targets[answer], weights[answer] = [*response, tokenizer.vocab_size - 3], 1.0
        intent = intents.index(x.intent) if x.intent in intents else -1
        answerable = -1 if x.answerable is None else int(x.answerable)
        sizes = np.array([len(asked.encode()), len(text.encode()) + 1])
        labels = np.int32(intent), np.int32(answerable)
        rows.append((inputs, targets, weights, *labels, sizes, np.int64(left_out)))
        kept.append(number)
    if not rows:
        unit = "bytes" if tokenizer == BYTES else "tokens"
        raise UserError(f"seq_len: none of {len(exchanges)} exchanges fits in {seq_len} {unit}")
    return ChatRows(*(np.stack(column) for column in zip(*rows, strict=True)), np.array(kept))
