"""How messages become tokens: a model's own format of conversations, or a chat template.

`dialogue_of` chooses, and is the only place that knows which there are.
"""

import asyncio
import dataclasses
from typing import Any, Protocol

import numpy as np

from eval.chat.conventions import reply_alignment
from eval.chat.guide import FREE, READING, STOPS, Guided, cursor
from eval.serve.limits import ApiError
from eval.serve.scheduler import Scheduler
from jaxmodels.data.chat.exchange import one_line, prompt_end, prompt_of
from jaxmodels.generation.request import Request, Session


@dataclasses.dataclass
class Heard:
    """Messages that have been read.

    Attributes:
      ids: tokens to read before the reply, of any number of replies.
      session: after which they are read; None = nothing.
      tokens: of the prompt, in all.
      ends: tokens that end the reply; stops: strings that do.
      said: state that the conversation goes on from, before `ids`; None if it cannot.
    """

    ids: np.ndarray
    session: Session | None
    tokens: int
    ends: tuple[int, ...]
    stops: tuple[str, ...] = ()
    said: Session | None = None


class Dialogue(Protocol):
    """A format of conversations."""

    async def hear(self, scheduler: Scheduler, messages: list, session: Session | None) -> Heard:
        """Read messages after a session; raise ApiError if the format has no such messages."""
        ...

    def reply_session(self, heard: Heard, max_tokens: int) -> Session | None:
        """Return the session that a reply of so many tokens begins with."""
        ...

    async def answered(self, scheduler: Scheduler, heard: Heard, text: str) -> Session:
        """Return the session after a reply."""
        ...


class Exchange:
    """The format of runs on conversations (`jaxmodels/data/chat/exchange.py`).

    As in eval.chat, a reply is drawn from a branch of the state, and then read into the state
    before it. Replies of a model of bytes are one line of valid UTF-8 (`eval/chat/guide.py`).
    """

    def __init__(self, model, tokenizer):
        inner = model.model if isinstance(model, Guided) else model
        self.guided, self.tokenizer = isinstance(model, Guided), tokenizer
        self.chunk_size = reply_alignment(inner)

    async def hear(self, scheduler: Scheduler, messages: list, session: Session | None) -> Heard:
        """See `Dialogue.hear`."""
        turns = []
        for place, message in enumerate(messages):
            expected = ("assistant", "user")[(len(messages) - place) % 2]
            role = message["role"]
            if role != expected:
                raise ApiError(
                    400,
                    f"messages.{place}.role: {role!r}, expected {expected!r}: this model knows "
                    "turns of user and assistant, the last one the user's",
                    param=f"messages.{place}.role",
                )
            turns.append(text_of(message["content"]))
            if not one_line(turns[-1]):
                param = f"messages.{place}.content"
                raise ApiError(400, f"{param}: empty; write a message", param=param)
        ids = np.asarray(self.tokenizer.encode(prompt_of(turns)), np.int32)
        said = await scheduler.read(Request(ids, 0, session=session, keep=True))
        end = prompt_end(said.tokens_read, self.chunk_size, self.tokenizer.vocab_size)
        ends = STOPS if self.guided else (self.tokenizer.vocab_size - 3,)
        return Heard(end, said, len(ids) + len(end), ends, said=said)

    def reply_session(self, heard: Heard, max_tokens: int) -> Session:
        """See `Dialogue.reply_session`."""
        said = heard.said
        if self.guided:
            state = said.state[0], cursor(READING, max_tokens)
            said = dataclasses.replace(said, state=state)
        return dataclasses.replace(said, drawn=0)

    async def answered(self, scheduler: Scheduler, heard: Heard, text: str) -> Session:
        """See `Dialogue.answered`."""
        ids = np.asarray(self.tokenizer.encode(f"{one_line(text)}\n"), np.int32)
        session = await scheduler.read(Request(ids, 0, session=heard.said, keep=True))
        return dataclasses.replace(session, logits=None)


class Templated:
    """A chat template: `render(messages)` gives the text that a reply continues.

    Args:
      template: see `jaxmodels/data/chat`.
      ends, stops: tokens and strings that end a reply.
    """

    def __init__(self, tokenizer, template, ends=(), stops=()):
        self.tokenizer, self.template = tokenizer, template
        self.ends, self.stops = tuple(ends), tuple(stops)

    async def hear(self, scheduler: Scheduler, messages: list, session: Session | None) -> Heard:
        """See `Dialogue.hear`."""
        if session is not None:
            message = "a chat template renders whole conversations; send all messages instead"
            raise ApiError(400, message, param="session_in")
        try:
            text = await asyncio.to_thread(self.template.render, messages)
        except ValueError as error:  # the template refuses the conversation
            raise ApiError(400, str(error), param="messages") from error
        ids = np.asarray(self.tokenizer.encode(text), np.int32)
        return Heard(ids, None, len(ids), self.ends, self.stops)

    def reply_session(self, heard: Heard, max_tokens: int) -> None:
        """See `Dialogue.reply_session`."""
        return None

    async def answered(self, scheduler: Scheduler, heard: Heard, text: str) -> Session:
        """Raise ApiError: the next turn does not begin where this one ends."""
        message = "not with a chat template: send all messages instead, their beginning is cached"
        raise ApiError(400, message, param="session_out")


def dialogue_of(model, tokenizer, *, chats: bool, template=None, endings=((), ())):
    """Return the format of conversations with a model, None if it has none.

    Args:
      model: of the engine, see `engine_model`.
      tokenizer: of the model.
      chats: whether the model was trained on conversations.
      template: chat template that came with the model, or None.
      endings: (tokens, strings) that end a reply to a template.
    """
    if template is not None:
        return Templated(tokenizer, template, *endings)
    return Exchange(model, tokenizer) if chats or isinstance(model, Guided) else None


def engine_model(model, tokenizer, stop_above: float | None = None) -> Any:
    """Return the model for the engine: one of bytes is guided in its replies."""
    size = getattr(getattr(model, "config", None), "vocab_size", 256)
    if tokenizer.name == "byte" and size == 256:
        return Guided(model, stop_above)
    return model


def wrapped(model, session: Session | None) -> Session | None:
    """Return a saved session as one of the engine's model."""
    if session is None or not isinstance(model, Guided):
        return session
    return dataclasses.replace(session, state=(session.state, cursor(FREE, 0)))


def unwrapped(model, session: Session) -> Session:
    """Return a session of the engine's model as one to save."""
    if not isinstance(model, Guided):
        return session
    return dataclasses.replace(session, state=session.state[0])


def text_of(content: str | list) -> str:
    """Return the text of a message's content."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
