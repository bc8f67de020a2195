"""A relation grammar with known labels: facts about entities, and questions about one or two facts.

An episode over E entities and V values has these tokens in order:

    START                                        1 token
    e HAS v       entity e has value v           3 tokens, E times  } 2 E facts, shuffled
    e POINTS f    entity e points at f != e      3 tokens, E times  } or in this order
    OWN e v       question: the value of e       3 tokens           } `questions` of these 2 E,
    VIA e v       question: of what e points at  3 tokens           } none twice, random order

The values of an episode are distinct. Only the answers v to questions are targets (weight 1,
predicted at the preceding input e). `hops` is the kind of question: 1 = OWN, 2 = VIA, -1 elsewhere.

`relation_labels` (slots, roles): slot e is entity e. Role 0 is its value, role 1 what it points at,
role 2 the value of what it points at, which is in *another slot*: decoding it from slot e requires
an off-diagonal influence of slot f on slot e. Labels are -1 until their facts have been read.
Classes: 0..V-1 values, V..V+E-1 entities. Further slots and roles stay -1.

Baseline accuracy for VIA answers and role 2: 1/V by chance; 1/(V-1) from slot e alone (never its
own value); 1/(E-1) knowing the values of the episode but not their entities. At the default sizes:
0.125, 0.143, 0.333. OWN answers need one slot only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxmodels.data.random import random_words
from jaxmodels.errors import UserError

PAD, START, HAS, POINTS, OWN, VIA = range(6)
_FIRST_ENTITY = 6


@dataclass(frozen=True)
class RelationGrammar:
    """Sizes of the task.

    Attributes:
      entities: E, 2 or more.
      values: V >= E.
      questions: questions per episode, at most 2 E (E if `own` is False).
      own: False = VIA questions only.
      shuffled: False = facts in a fixed order, which makes the task much easier to learn.
      slots, roles: shape of the labels; slots >= E.
    """

    entities: int = 4
    values: int = 8
    questions: int = 4
    own: bool = True
    shuffled: bool = True
    slots: int = 16
    roles: int = 4

    def __post_init__(self):
        if not 2 <= self.entities <= self.values:
            sizes = f"{self.entities} entities, {self.values} values"
            raise UserError(f"relation grammar: needs 2 <= entities <= values, got {sizes}")
        if self.vocab_size > 64:
            raise UserError(f"relation grammar: {self.vocab_size} tokens, at most 64: fewer values")
        if self.slots < self.entities or self.roles < 1:
            raise UserError("relation grammar: needs slots >= entities and roles >= 1")
        limit = self.entities * (1 + self.own)
        if not 1 <= self.questions <= limit:
            raise UserError(f"relation grammar: questions must be 1..{limit}, got {self.questions}")

    @property
    def vocab_size(self) -> int:
        """Number of tokens: PAD START HAS POINTS OWN VIA, the entities, the values."""
        return _FIRST_ENTITY + self.entities + self.values

    @property
    def num_classes(self) -> int:
        """Number of classes of `relation_labels`."""
        return self.values + self.entities

    @property
    def labels(self) -> dict[str, int]:
        """Fields of a batch beside the targets, and their number of classes."""
        return {"relation_labels": self.num_classes}

    @property
    def episode_len(self) -> int:
        """Number of tokens of an episode."""
        return 1 + 6 * self.entities + 3 * self.questions

    @property
    def seq_len(self) -> int:
        """Number of tokens of a row of `batch`, one episode."""
        return self.episode_len

    @property
    def chance(self) -> float:
        """Accuracy of guessing one of the values."""
        return 1 / self.values

    def batch(self, seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
        """Return a batch of one episode a row, as `relation_batch` does."""
        return relation_batch(self, batch_size, self.seq_len, seed, index)

    def describe(self, tokens) -> str:
        """Return tokens as words, to read a sample."""
        names = ["PAD", "START", "HAS", "POINTS", "OWN", "VIA"]
        names += [f"e{i}" for i in range(self.entities)] + [f"v{i}" for i in range(self.values)]
        return " ".join(names[int(t)] for t in np.asarray(tokens).ravel())


def relation_batch(
    grammar: RelationGrammar, batch_size: int, seq_len: int, seed: int, index: int
) -> dict[str, np.ndarray]:
    """Return batch number `index` of a seed; use another seed for evaluation.

    A row has as many whole episodes as fit, with `reset` at the start of each; the rest is PAD with
    weight 0. Fields: inputs, targets, weights, reset, `relation_labels` int32 (rows, seq_len,
    slots, roles), `hops` int32 (rows, seq_len).

    Raises:
      UserError: an episode does not fit into seq_len.
    """
    per_row = seq_len // grammar.episode_len
    if not per_row:
        raise UserError(
            f"seq_len {seq_len} is shorter than an episode of the relation grammar "
            f"({grammar.episode_len} tokens): raise seq_len or lower entities or questions"
        )
    episodes = _episodes(grammar, batch_size * per_row, seed, index)
    padding = {"inputs": PAD, "targets": 0, "weights": 0, "reset": False}
    batch = {}
    for name, values in episodes.items():
        rows = values.reshape(batch_size, per_row * grammar.episode_len, *values.shape[2:])
        width = [(0, 0), (0, seq_len - rows.shape[1])] + [(0, 0)] * (rows.ndim - 2)
        batch[name] = np.pad(rows, width, constant_values=padding.get(name, -1))
    return batch


def _episodes(grammar: RelationGrammar, n: int, seed: int, index: int) -> dict[str, np.ndarray]:
    """Return n episodes, every field (n, episode_len, ...)."""
    e, v, q = grammar.entities, grammar.values, grammar.questions
    words = random_words(seed, index, n * (v + 5 * e)).reshape(n, -1)
    value_words, link_words, order_words, asked_words = np.split(
        words, np.cumsum([v, e, 2 * e]), axis=1
    )
    row = np.arange(n)[:, None]
    value = np.argsort(value_words, axis=1)[:, :e]  # (n, e), distinct within an episode
    link = (link_words % np.uint64(e - 1)).astype(np.int64) + 1
    link = (np.arange(e) + link) % e  # (n, e), never itself
    if not grammar.shuffled:
        order_words = np.broadcast_to(np.arange(2 * e), order_words.shape)
    order = np.argsort(order_words, axis=1)  # fact f < e: value of f; else link of f - e
    # Question x is VIA x if x < e, else OWN x - e; the first q are asked.
    numbers = np.argsort(asked_words[:, : e * (1 + grammar.own)], axis=1)[:, :q]
    asked, via = numbers % e, numbers < e  # (n, q)

    entity, has_value = order % e, order < e
    entity_token = _FIRST_ENTITY + np.arange(e)
    object_token = np.where(
        has_value, _FIRST_ENTITY + e + value[row, entity], _FIRST_ENTITY + link[row, entity]
    )
    facts = np.stack([entity_token[entity], np.where(has_value, HAS, POINTS), object_token], axis=2)
    answer = value[row, np.where(via, link[row, asked], asked)]
    questions = np.stack(
        [np.where(via, VIA, OWN), entity_token[asked], _FIRST_ENTITY + e + answer], axis=2
    )
    inputs = np.concatenate(
        [np.full((n, 1), START), facts.reshape(n, -1), questions.reshape(n, -1)], axis=1
    ).astype(np.int32)

    length = grammar.episode_len
    predicts = 1 + 6 * e + 1 + 3 * np.arange(q)  # positions of the asked entity
    targets = np.zeros((n, length), np.int32)
    targets[:, predicts] = inputs[:, predicts + 1]
    weights = np.zeros((n, length), np.float32)
    weights[:, predicts] = 1
    hops = np.full((n, length), -1, np.int32)
    hops[:, predicts] = np.where(via, 2, 1)
    reset = np.zeros((n, length), bool)
    reset[:, 0] = True

    # Position at which each fact has been read: fact f has rank argsort(order)[f].
    read = 3 + 3 * np.argsort(order, axis=1)
    value_known, link_known = read[:, :e], read[:, e:]
    via_known = np.maximum(link_known, value_known[row, link])
    known = np.stack([value_known, link_known, via_known], axis=2)
    classes = np.stack([value, v + link, value[row, link]], axis=2)
    k = min(grammar.roles, 3)
    labels = np.full((n, length, grammar.slots, grammar.roles), -1, np.int32)
    labels[:, :, :e, :k] = np.where(
        np.arange(length)[None, :, None, None] >= known[:, None, :, :k], classes[:, None, :, :k], -1
    )
    return {
        "inputs": inputs,
        "targets": targets,
        "weights": weights,
        "reset": reset,
        "relation_labels": labels,
        "hops": hops,
    }
