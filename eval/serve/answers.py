"""Answers in the shape of OpenAI's API: objects of whole answers and of pieces."""

import dataclasses
import time
import uuid
from typing import Any

from jaxmodels.generation.request import LENGTH, Event

LEAST = -9999.0  # log-probability of what is not allowed; JSON has no infinity
REASONS = {LENGTH: "length", "end": "stop", "stop": "stop", "cancelled": "length"}


@dataclasses.dataclass
class Usage:
    """Tokens of a request."""

    prompt: int = 0
    drawn: int = 0

    def content(self) -> dict[str, int]:
        """Return the object of the API."""
        total = self.prompt + self.drawn
        names = "prompt_tokens", "completion_tokens", "total_tokens"
        return dict(zip(names, (self.prompt, self.drawn, total), strict=True))


class Answer:
    """Shapes of the answers to one request.

    Args:
      model: name of the model.
      chat: whether it is that of chat completions.
      tokenizer: for the texts of tokens beside log-probabilities.
    """

    def __init__(self, model: str, chat: bool, tokenizer):
        self.chat, self.tokenizer = chat, tokenizer
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self.kind = kind
        self.head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time())}
        self.head |= {"model": model}

    def whole(self, choices: list[dict], usage: Usage) -> dict[str, Any]:
        """Return an answer."""
        return {**self.head, "object": self.kind, "choices": choices, "usage": usage.content()}

    def piece(self, choices: list[dict], **further) -> dict[str, Any]:
        """Return a piece of a streamed answer."""
        kind = f"{self.kind}.chunk" if self.chat else self.kind
        return {**self.head, "object": kind, "choices": choices, **further}

    def choice(self, index: int, text: str, event: Event | None, logprobs, **extra) -> dict:
        """Return a whole choice; the event is its last."""
        reason = None if event is None else REASONS.get(event.finish_reason)
        body: dict[str, Any] = {"text": text}
        if self.chat:
            body = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": index, **body, "logprobs": logprobs, "finish_reason": reason, **extra}

    def delta(self, index: int, event: Event, logprobs, **extra) -> dict:
        """Return a choice of a piece."""
        body: dict[str, Any] = {"text": event.text}
        if self.chat:
            body = {"delta": {"content": event.text}}
        reason = REASONS.get(event.finish_reason)
        return {"index": index, **body, "logprobs": logprobs, "finish_reason": reason, **extra}

    def role(self, index: int) -> dict:
        """Return the first choice of a streamed chat, which says whose turn it is."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def logprobs(self, event: Event, offset: int = 0) -> dict | None:
        """Return the log-probabilities of an event's tokens, which begin at a character."""
        if event.logprobs is None:
            return None
        texts = [self._text(token) for token in event.tokens]
        if not self.chat:
            # There is a piece of text for each token, "" for one that completes no character.
            sizes = [len(piece) for piece in event.pieces]
            offsets = [offset + sum(sizes[:i]) for i in range(len(texts))]
            tops = [{self._text(i): max(p, LEAST) for i, p in top} for top in event.top_logprobs]
            return {
                "tokens": texts,
                "token_logprobs": [max(value, LEAST) for value in event.logprobs],
                "top_logprobs": tops,
                "text_offset": offsets,
            }
        rows = zip(event.tokens, event.logprobs, event.top_logprobs, strict=True)
        content = [
            {**self._entry(token, value), "top_logprobs": [self._entry(*pair) for pair in top]}
            for token, value, top in rows
        ]
        return {"content": content, "refusal": None}

    def _text(self, token: int) -> str:
        """Return the text of a token; one that is part of a character has its number instead."""
        text = self.tokenizer.decode([token])
        return f"token_id:{token}" if not text or "\ufffd" in text else text

    def _entry(self, token: int, value: float) -> dict:
        data = self.tokenizer.token_bytes(token)
        known = None if data is None else list(data)
        return {"token": self._text(token), "logprob": max(value, LEAST), "bytes": known}


def joined(parts: list[dict | None]) -> dict | None:
    """Return the log-probabilities of several events as one object."""
    parts = [part for part in parts if part is not None]
    if not parts:
        return None
    names = [name for name, value in parts[0].items() if isinstance(value, list)]
    return {**parts[0], **{name: [x for part in parts for x in part[name]] for name in names}}
