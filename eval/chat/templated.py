"""A conversation in the form that a chat template gives it, for models with a tokenizer.

The text of all messages is rendered and tokenized anew at each turn, so that the model reads what
its template says. Where the ids begin with those that have been read, reading goes on from that
state; where they do not (e.g. a template that drops earlier thoughts), it begins afresh.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxmodels.data.chat.template import ChatTemplate
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import Engine
from jaxmodels.generation.request import Request, Session
from jaxmodels.generation.sampling import Sampling
from jaxmodels.generation.text import TextOf


class Templated:
    """Messages, their template, and the state after the ids read.

    Attributes:
      messages: {"role", "content"} each, in order.
      read: ids that the state has read.
      reused: how many of them the last prompt began with; the others were read for it.
      endings: (ids, strings) that end a reply.
    """

    def __init__(
        self,
        model,
        tokenizer,
        template: ChatTemplate,
        endings: tuple[tuple[int, ...], tuple[str, ...]] = ((), ()),
    ):
        self.tokenizer, self.template, self.endings = tokenizer, template, endings
        self.messages: list[dict[str, str]] = []
        self.read, self.reused = np.zeros(0, np.int32), 0
        self._session: Session | None = None
        self._engine = Engine(model)

    def reply(self, prompt: str, sampling: Sampling, seed: int, tokens: int) -> Iterator[str]:
        """Yield the pieces of the reply to a message; with the last, both are in `messages`.

        Args:
          prompt: the message.
          sampling, seed: how tokens are drawn.
          tokens: most tokens of the reply.

        Raises:
          UserError: the template refuses the conversation, or the model computes NaN.
        """
        asked = [*self.messages, {"role": "user", "content": prompt}]
        ids = np.asarray(self.tokenizer.encode(self.template.render(asked)), np.int32)
        before = len(self.read)
        goes_on = 0 < before < len(ids) and np.array_equal(ids[:before], self.read)
        self.reused = before if goes_on else 0
        ends, stops = self.endings
        request = Request(
            ids[self.reused :],
            tokens,
            sampling,
            seed,
            ends,
            TextOf(self.tokenizer, ids, stops, each=True),
            session=self._session if goes_on else None,
            keep=True,
        )
        text, drawn = "", []
        for event in self._events(request):
            text += event.text
            drawn += event.tokens
            yield from filter(None, event.pieces)
        self.messages = [*asked, {"role": "assistant", "content": text}]
        self.read = np.concatenate([ids, np.asarray(drawn, np.int32)])

    def _events(self, request: Request):
        self._engine.submit(request)
        while not self._engine.idle:
            for event in self._engine.advance():
                if event.error:
                    raise UserError(event.error)
                self._session = event.session or self._session
                yield event
