"""What a caller and the engine exchange: sessions, requests, events and completions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmodels.data.tokenizers.stream import REMEMBERED
from jaxmodels.errors import UserError
from jaxmodels.generation.sampling import Sampling, checked_seed, whole_number
from jaxmodels.generation.text import TextOf

UNLIMITED = 2**30  # tokens, for a request that its caller ends
MOST_ENDS = 8  # end tokens of a request
RECENT = REMEMBERED  # last ids of a session
DEFAULT = Sampling()
LENGTH, END, STOP, CANCELLED = "length", "end", "stop", "cancelled"


@dataclasses.dataclass
class Session:
    """The state of a model after reading some text.

    Attributes:
      state: recurrent state, leaves (batch, ...) float32.
      logits: logits of the next token, float32 (batch, vocab), or None.
      tokens_read: number of tokens read since the session began.
      drawn: number of these that were sampled, the position in the sampler's random stream.
      recent: the last ids read, at most `RECENT`: the text of those that follow depends on them.
    """

    state: Any
    logits: Any = None
    tokens_read: int = 0
    drawn: int = 0
    recent: tuple[int, ...] = ()


@dataclasses.dataclass
class Request:
    """A prompt to continue.

    Attributes:
      prompt: ids, int (length,); may be empty if `session` has logits.
      max_tokens: most tokens to draw; 0 only reads the prompt.
      sampling: see `Sampling`.
      seed: below 2^32; the n-th token that a session draws depends on the seed and n alone.
      end_tokens: ids that end the text. They belong neither to it nor to the state after it.
      text: makes text of the tokens, and ends it with a stop string; None = tokens only.
      session: what was read before; None = nothing. Its batch size is 1.
      keep: give the session after the last token of the result.
      top: most likely tokens to give with their log-probabilities at every place, and that of the
        drawn one; None = no log-probabilities.
      watch: give what the engine's `watch` returns, see `Engine`.
    """

    prompt: Sequence[int] | np.ndarray
    max_tokens: int
    sampling: Sampling = DEFAULT
    seed: int = 0
    end_tokens: tuple[int, ...] = ()
    text: TextOf | None = None
    session: Session | None = None
    keep: bool = False
    top: int | None = None
    watch: bool = False

    @property
    def looks(self) -> bool:
        """Return whether something is to be told of every token."""
        return self.watch or self.top is not None

    def __post_init__(self):
        ids = np.asarray(self.prompt)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise UserError(f"prompt: give a list of token ids, got {ids.dtype} {ids.shape}")
        if ids.size and max(abs(int(ids.min())), int(ids.max())) >= 2**31:  # would wrap around
            raise UserError(f"prompt: ids {ids.min()} to {ids.max()}; those of tokens are int32")
        self.prompt = ids.astype(np.int32)
        begun = self.session is not None and self.session.state is not None
        if not ids.size and not (begun and self.session.logits is not None):
            raise UserError("prompt: empty; give a token or more, or a session that has logits")
        if not 0 <= whole_number("max_tokens", self.max_tokens) <= UNLIMITED:
            raise UserError(f"max_tokens={self.max_tokens}: give 0 to {UNLIMITED}")
        if not ids.size and not self.max_tokens:
            raise UserError("max_tokens=0: an empty prompt leaves nothing to do; give 1 or more")
        if len(self.end_tokens) > MOST_ENDS:
            raise UserError(f"end_tokens: {len(self.end_tokens)}; give at most {MOST_ENDS}")
        for token in self.end_tokens:
            whole_number("end_tokens", token)
        if self.top is not None:
            whole_number("logprobs", self.top)
        checked_seed(self.seed)


@dataclasses.dataclass(slots=True)
class Event:
    """What has become of a request since its last event.

    Attributes:
      id: of the request, as `Engine.submit` returned it.
      tokens: ids drawn.
      pieces: text that is certain now, see `TextOf`; `text` joins them.
      logprobs: of the tokens, natural logarithms of the model's own probabilities, before penalty,
        temperature and filters; None unless asked for.
      top_logprobs: a list a token of (id, log-probability), the most likely first.
      finish_reason: "length", "end" (an end token), "stop" (a stop string) or "cancelled"; None
        while it goes on.
      error: one line, if the model computes NaN; then there is no finish_reason.
      session: after the last token, if asked for.
      watch: what the engine's `watch` returned at each token read by steps or drawn, leaves
        (count, ...).
    """

    id: int
    tokens: list[int]
    pieces: list[str] = dataclasses.field(default_factory=list)
    logprobs: list[float] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    finish_reason: str | None = None
    error: str | None = None
    session: Session | None = None
    watch: Any = None

    @property
    def text(self) -> str:
        """Return the text that is certain now and was not before."""
        return "".join(self.pieces)

    @property
    def last(self) -> bool:
        """Return whether no event of this request follows."""
        return self.finish_reason is not None or self.error is not None


@dataclasses.dataclass
class Completion:
    """The continuation of a prompt; its fields are those of `Event`, all events together.

    Attributes:
      prompt_tokens: number of ids of the prompt.
    """

    prompt_tokens: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    text: str | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    finish_reason: str | None = None
    session: Session | None = None

    def add(self, event: Event) -> None:
        """Append an event; raise UserError if it is an error."""
        if event.error:
            raise UserError(event.error)
        self.tokens += event.tokens
        if self.text is not None:
            self.text += event.text
        if event.logprobs is not None:
            self.logprobs = (self.logprobs or []) + event.logprobs
            self.top_logprobs = (self.top_logprobs or []) + event.top_logprobs
        self.finish_reason, self.session = event.finish_reason, event.session
