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

import codecs
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.chat.guide import STOPS, Guided
from eval.sample import CHUNK, DEFAULT, PREFILL, Choice, generate_chunk, prefill
from jaxmodels.data.chat.exchange import one_line, prompt_end, prompt_of
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.models.rnk.constraints import check_arithmetic
from jaxmodels.models.rnk.model import RNK
from jaxmodels.session import Session


@dataclasses.dataclass(frozen=True)
class Options:
    """How replies are drawn.

    Attributes:
      choice: see `eval.sample.Choice`.
      seed: the same seed, conversation and model give the same replies.
      tokens: most bytes of a reply.
      stop_above: see `Guided`.
    """

    choice: Choice = DEFAULT
    seed: int = 0
    tokens: int = 500
    stop_above: float | None = None

    def __post_init__(self):
        if self.tokens < 1:
            raise UserError(f"tokens={self.tokens}: give 1 or more")


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
        self.session = Session(None) if session is None else session
        fixed = isinstance(model, RNK) and model.config.chunking == "fixed"
        self.chunk_size = model.config.chunk_size if fixed else 1

    def hear(self, prompt: str) -> Turn:
        """Read a prompt; the conversation itself is unchanged until `answer`.

        Raises:
          UserError: the prompt is empty, or the model computes NaN.
        """
        if not one_line(prompt):
            raise UserError("empty prompt; write a message")
        state = self.model.initial_state(1) if self.session.state is None else self.session.state
        text = np.frombuffer(prompt_of([prompt]).encode(), np.uint8).astype(np.int32)
        said, _ = read(self.model, state, text)
        count = self.session.tokens_read + len(text)
        end = prompt_end(count, self.chunk_size)
        state, heads = read(self.model, said, end)
        if np.isnan(heads["logits"]).any():
            raise UserError("the model computes NaN; train it again or take another --checkpoint")
        return Turn(prompt, said, count, end, state, heads)

    def answer(self, turn: Turn, text: str) -> None:
        """Add a turn and the reply to it to the conversation."""
        ids = np.frombuffer(f"{one_line(text)}\n".encode(), np.uint8).astype(np.int32)
        state, _ = read(self.model, turn.said, ids)
        drawn = self.session.drawn + len(ids)
        self.session = Session(state, None, turn.read + len(ids), drawn)


class Reply:
    """A reply as it is drawn: iterate over its pieces of text once.

    Attributes:
      data: the bytes drawn so far.
      ended: what ended it: "model", "stop" (the stop head) or "tokens" (their number).
    """

    def __init__(self, model, turn: Turn, options: Options, attempt: int = 0):
        """Prepare a reply to a turn; another `attempt` is another reply."""
        self.model, self.turn, self.options, self.attempt = model, turn, options, attempt
        self.data, self.ended = bytearray(), "tokens"

    @property
    def text(self) -> str:
        """Return the text drawn so far."""
        return self.data.decode(errors="ignore")  # of the character being drawn

    def __iter__(self) -> Iterator[str]:
        o, heads = self.options, self.turn.heads
        stop = jax.nn.sigmoid(heads["stop"]) if "stop" in heads else jnp.zeros((1,))
        guided = Guided(self.model, o.stop_above)
        begun = guided.begin(self.turn.state, heads["logits"], stop, o.tokens)
        state, logits = jax.tree.map(jnp.array, begun)  # a copy: generate_chunk donates its inputs
        key = jax.random.key(o.seed)
        for number in (self.turn.read, self.attempt):
            key = jax.random.fold_in(key, number)
        decoder = codecs.getincrementaldecoder("utf-8")()
        for chunk in range(-(-o.tokens // CHUNK)):
            chunk_key = jax.random.fold_in(key, chunk)
            state, logits, new = generate_chunk(guided, state, logits, chunk_key, o.choice)
            for byte in np.asarray(new)[: o.tokens - len(self.data)].tolist():
                if byte in STOPS:
                    self.ended = "stop" if state[1].ending[0] else "model"
                    return
                self.data.append(byte)
                if piece := decoder.decode(bytes([byte])):
                    yield piece


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
        problem = f"it was trained with the tokenizer {tokenizer.name!r}"
    else:
        one = jnp.zeros((1,), jnp.int32)
        _, out = jax.eval_shape(lambda: model.step(model.initial_state(1), one))
        if out.logits.shape[-1] != 256:
            problem = f"its vocabulary has {out.logits.shape[-1]} tokens"
    if problem:
        raise UserError(f"--workdir={workdir}: no model of the 256 bytes to talk to: {problem}")


def read(model, state, ids: np.ndarray):
    """Read bytes int32 (length,) -> (state, the outputs after them; see `Turn.heads`).

    Whole pieces of PREFILL bytes are read in parallel and the rest one by one, so that two compiled
    programs serve every length.
    """
    whole = (len(ids) - 1) // PREFILL * PREFILL
    for start in range(0, whole, PREFILL):
        state, _ = prefill(model, state, ids[None, start : start + PREFILL])
    rest = np.zeros(PREFILL, np.int32)
    rest[: len(ids) - whole] = ids[whole:]
    return _read_by_steps(model, state, rest, len(ids) - whole)


@jax.jit
def _read_by_steps(model, state, tokens, count):
    """Read the first `count` of tokens int32 (PREFILL,)."""
    names = ("logits", *(("stop", "intent", "answerable") if isinstance(model, RNK) else ()))

    def step(state, token):
        state, out = model.step(state, token)
        return state, {name: getattr(out, name) for name in names}

    _, shapes = jax.eval_shape(step, state, tokens[:1])
    heads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(
        0, count, lambda i, carry: step(carry[0], tokens[i][None]), (state, heads)
    )
