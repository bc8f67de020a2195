"""A conversation with a model, whose recurrent state is kept between turns.

    conversation = Conversation(model)
    turn = conversation.hear("How are you?")
    reply = Reply(model, turn, Options(seed=1))
    for piece in reply:
        print(piece, end="")
    conversation.answer(turn, reply.text)

As in training (`jaxmodels/data/chat/exchange.py`), the history holds neither padding nor marks. So
a reply is drawn from a branch of the state that has read them, and then read into the state before
them: after any number of turns, the state is that of a model that reads the whole conversation.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.chat.conventions import reply_alignment
from eval.chat.guide import STOPS, Guided
from eval.sample import DEFAULT
from jaxmodels.data.chat.exchange import one_line, prompt_end, prompt_of
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import PIECE, Engine
from jaxmodels.generation.request import END, STOP, Event, Request
from jaxmodels.generation.sampling import Sampling
from jaxmodels.generation.text import TextOf, checked_stops
from jaxmodels.models.contract import traits_of
from jaxmodels.models.rnk.constraints import check_arithmetic
from jaxmodels.models.rnk.model import RNK
from jaxmodels.session import Session


@dataclasses.dataclass(frozen=True)
class Options:
    """How replies are drawn.

    Attributes:
      choice: how bytes are drawn.
      seed: the same seed, conversation and model give the same replies.
      tokens: most bytes of a reply.
      stop_above: see `Guided`.
      stop: strings before the first of which a reply ends.
    """

    choice: Sampling = DEFAULT
    seed: int = 0
    tokens: int = 500
    stop_above: float | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        if self.tokens < 1:
            raise UserError(f"tokens={self.tokens}: give 1 or more")
        checked_stops(self.stop)


class Turn(NamedTuple):
    """A prompt that has been read.

    Attributes:
      prompt: the prompt.
      said: the state after the text of the prompt.
      read: bytes that it has read since the conversation began.
      end: the padding and mark that follow, int32 (length,).
      state: the state after these.
      heads: the model's outputs there: logits (1, 256), and of RNK stop (1,), intent (1, intents)
        and answerable (1,), all logits.
    """

    prompt: str
    said: Any
    read: int
    end: np.ndarray
    state: Any
    heads: dict[str, jax.Array]

    @property
    def answerable(self) -> float | None:
        """Return the probability that the model can answer; None without that head."""
        head = self.heads.get("answerable")
        return None if head is None else float(jax.nn.sigmoid(head[0]))


class Conversation:
    """What has been said, as a recurrent state.

    Attributes:
      session: `jaxmodels.session.Session` after the last reply; it can be saved and resumed.
    """

    def __init__(self, model, session: Session | None = None):
        """Start a conversation, or continue that of a session; see `check_model`."""
        self.model = model
        self._engine = Engine(model, piece=PIECE, watch=_heads)
        self.session = Session(None) if session is None else session
        self.chunk_size = reply_alignment(model)

    def hear(self, prompt: str) -> Turn:
        """Read a prompt; the conversation itself is unchanged until `answer`.

        Raises:
          UserError: the prompt is empty, or the model computes NaN.
        """
        if not one_line(prompt):
            raise UserError("empty prompt; write a message")
        text = np.frombuffer(prompt_of([prompt]).encode(), np.uint8)
        said = self._read(text, self.session)
        count = said.session.tokens_read
        end = prompt_end(count, self.chunk_size)
        read = self._read(end, said.session)
        heads = {name: jnp.asarray(x[-1:]) for name, x in read.watch.items()}
        heads["logits"] = read.session.logits
        if np.isnan(heads["logits"]).any():
            raise UserError("the model computes NaN; train it again or take another --checkpoint")
        return Turn(prompt, said.session.state, count, end, read.session.state, heads)

    def answer(self, turn: Turn, text: str) -> None:
        """Add a turn and the reply to it to the conversation."""
        ids = np.frombuffer(f"{one_line(text)}\n".encode(), np.uint8)
        said = Session(turn.said, None, turn.read, self.session.drawn + len(ids))
        self.session = dataclasses.replace(self._read(ids, said).session, logits=None)

    def _read(self, ids: np.ndarray, session: Session) -> Event:
        """Read bytes after a session -> the event with the session and the heads after them."""
        request = Request(ids, 0, session=session, keep=True, watch=True)
        return next(event for event in _events(self._engine, request) if event.session)


class Reply:
    """A reply as it is drawn: iterate over its pieces of text once.

    Attributes:
      data: the bytes drawn so far.
      ended: what ended it: "model", "stop" (the stop head or a stop string) or "tokens" (their
        number).
    """

    def __init__(self, model, turn: Turn, options: Options, attempt: int = 0):
        """Prepare a reply to a turn; another `attempt` is another reply."""
        self.model, self.turn, self.options, self.attempt = model, turn, options, attempt
        self.data, self.ended = bytearray(), "tokens"

    @property
    def text(self) -> str:
        """Return the text drawn so far."""
        text = self.data.decode(errors="ignore")  # of the character being drawn
        places = [place for stop in self.options.stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text

    def __iter__(self) -> Iterator[str]:
        o, heads = self.options, self.turn.heads
        stop = jax.nn.sigmoid(heads["stop"]) if "stop" in heads else jnp.zeros((1,))
        guided = Guided(self.model, o.stop_above)
        session = Session(*guided.begin(self.turn.state, heads["logits"], stop, o.tokens))
        seed = np.random.SeedSequence((o.seed, self.turn.read, self.attempt)).generate_state(1)
        text = TextOf(ByteTokenizer(), (), o.stop, each=True)
        request = Request(
            (), o.tokens, o.choice, int(seed[0]), STOPS, text, session=session, watch=True
        )
        ending = False
        for event in _events(Engine(guided, watch=_ending), request):
            self.data += bytes(event.tokens)
            ending = bool(event.watch[-1]) if len(event.watch) else ending
            yield from filter(None, event.pieces)
        if event.finish_reason in (END, STOP):
            self.ended = "stop" if ending or event.finish_reason == STOP else "model"


def _events(engine: Engine, request: Request) -> Iterator[Event]:
    """Yield the events of a request that has an engine for itself."""
    engine.submit(request)
    while not engine.idle:
        yield from engine.advance()


def _heads(model, before, after, out) -> dict[str, jax.Array]:
    """Return the outputs of RNK's heads at each byte, {} of other models."""
    names = ("stop", "intent", "answerable") if isinstance(model, RNK) else ()
    return {name: getattr(out, name) for name in names}


def _ending(model, before, after, out) -> jax.Array:
    """Return whether the stop head has ended a reply, bool (B,), see `Cursor`."""
    return after[1].ending


def verified(model, turn: Turn, options: Options, most: int) -> tuple[Reply, int, bool]:
    """Draw replies to an arithmetic question until one is right.

    This verifies, it does not reason: the replies are independent, and the model learns nothing.

    Args:
      model, turn, options: see `Reply`.
      most: most replies to draw.

    Returns:
      (the right reply or else the first, number of replies drawn, whether it is right).
    """
    replies = []
    for attempt in range(most):
        replies.append(Reply(model, turn, options, attempt))
        text = "".join(replies[-1])
        if check_arithmetic(turn.prompt, text):
            return replies[-1], attempt + 1, True
    return replies[0], most, False


def check_model(model, workdir: str, tokenizer) -> None:
    """Raise UserError unless the model continues bytes from left to right."""
    problem = None
    if traits_of(model).step is None:
        problem = f"{type(model).__name__} does not read from left to right (it has no step())"
    elif tokenizer.name != "byte":
        problem = f"its tokenizer is {tokenizer.name!r}, and its folder has no chat template"
    else:
        one = jnp.zeros((1,), jnp.int32)
        _, out = jax.eval_shape(lambda: model.step(model.initial_state(1), one))
        if out.logits.shape[-1] != 256:
            problem = f"its vocabulary has {out.logits.shape[-1]} tokens"
    if problem:
        raise UserError(f"--workdir={workdir}: no model of the 256 bytes to talk to: {problem}")
