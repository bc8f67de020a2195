"""What RNK's heads, plans and refiner say about a turn and its reply."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from eval.chat.conversation import Reply, Turn
from jaxmodels.data.chat.exchange import END, PAD
from jaxmodels.models.rnk.constraints import check_stops


@dataclass(frozen=True)
class Chunk:
    """A chunk of a reply.

    Attributes:
      size: its bytes; an end that opens a chunk of its own has none.
      plan_norm: norm of the plan that it was written from.
      stop: the stop head's probability that the reply ends within it.
      gate: mean gate of the refiner; None if the model has none.
    """

    size: int
    plan_norm: float
    stop: float
    gate: float | None


@dataclass(frozen=True)
class Explanation:
    """A turn and its reply, as the model's heads see them.

    Attributes:
      intent: name of the most likely intent; confidence: its probability.
      answerable: probability that the model can answer.
      chunks: those of the reply; none if it was refused.
      consistent: see `check_stops`.
    """

    intent: str
    confidence: float
    answerable: float
    chunks: tuple[Chunk, ...] = ()
    consistent: bool = False

    def lines(self) -> list[str]:
        """Return the lines to print."""
        intent = f"intent {self.intent} ({self.confidence:.2f})"
        lines = [f"{intent}, answerable {self.answerable:.2f}"]
        for number, x in enumerate(self.chunks, 1):
            gate = "" if x.gate is None else f", refiner gate {x.gate:.2f}"
            norm = f"plan norm {x.plan_norm:.2f}"
            lines.append(f"chunk {number}: {x.size} bytes, {norm}, stop {x.stop:.2f}{gate}")
        if self.chunks:
            agreed = "agrees" if self.consistent else "disagrees"
            lines.append(f"the stop head {agreed} with where the reply ended")
        return lines


def explain(model, turn: Turn, reply: Reply | None) -> Explanation:
    """Explain a turn of a conversation with RNK, and its reply unless it was refused."""
    shares = np.asarray(jax.nn.softmax(turn.heads["intent"][0]))
    best = int(shares.argmax())
    head = model.config.intents[best], float(shares[best]), turn.answerable
    if reply is None:
        return Explanation(*head)
    written = [*reply.data, *([END] if reply.ended == "model" else [])]
    ids = np.concatenate([turn.end, np.array(written, np.int32)])
    room = max(128, 1 << (len(ids) - 1).bit_length())  # few programs for all lengths
    seen = _watch(model, turn.said, np.pad(ids, (0, room - len(ids)), constant_values=PAD)[None])
    index, norms, stops, gates = jax.tree.map(np.asarray, seen)
    # The outputs at one byte are those of the chunk of the next.
    before = np.arange(len(turn.end) - 1, len(ids) - 1)
    chunks = []
    for number in np.unique(index[before]):
        places = before[index[before] == number]
        size = int((places < len(turn.end) - 1 + len(reply.data)).sum())
        gate = None if gates is None else float(gates[number - 1])
        chunks.append(Chunk(size, float(norms[number - 1]), float(stops[places[0]]), gate))
    ends = [False] * (len(chunks) - 1) + [reply.ended != "tokens"]
    consistent = check_stops([x.stop for x in chunks], ends)
    return Explanation(*head, tuple(chunks), consistent)


@jax.jit
def _watch(model, state, tokens):
    """Return (chunk before each byte (T,), plan norms (n,), stops (T,), gates (n,)) of (1, T)."""
    _, out = model(state, tokens)
    gates = None if out.chunks.gates is None else out.chunks.gates[0].mean(-1)
    norms = jnp.linalg.norm(out.chunks.plan[0], axis=-1)
    return out.chunks.index[0], norms, jax.nn.sigmoid(out.stop[0]), gates
