"""Asking a model: rows in, answers out, as text, with how long it thought."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.data.pairs.layout import read_answer
from jaxmodels.data.pairs.rows import Pair, lay_out_pairs, normalised
from jaxmodels.errors import UserError
from jaxmodels.models import decoding
from jaxmodels.models.contract import traits_of
from jaxmodels.models.hrlm import act


@dataclasses.dataclass(frozen=True)
class Answers:
    """Of n questions.

    Attributes:
      by_round: R lists of n texts, what the model would have said after each round.
      rounds: int (n,), after which round its Q-head would halt, from 1; R if it never does.
    """

    by_round: list[list[str]]
    rounds: np.ndarray

    @property
    def last(self) -> list[str]:
        """After the last round."""
        return self.by_round[-1]

    @property
    def adaptive(self) -> list[str]:
        """After the round in which the model halts."""
        return [self.by_round[r - 1][i] for i, r in enumerate(self.rounds)]


class Asker:
    """A model with its tokenizer, compiled once for a batch size.

    Args:
      model: an `HRLM` of any mode.
      tokenizer: what it was trained with.
      batch_size: rows read side by side; fewer questions are filled up.
      max_steps: rounds of thinking; None means the model's own.
      halt: "adaptive", the answer is that of the round in which the model wishes to halt; "max",
        that of the last; None, as the model's `eval_halt` says.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        batch_size: int = 64,
        max_steps: int | None = None,
        halt: str | None = None,
    ):
        if batch_size < 1:
            raise UserError(f"batch_size: give 1 or more, got {batch_size}")
        if max_steps is not None and max_steps < 1:
            raise UserError(f"max_steps: give 1 or more, got {max_steps}")
        c = model.config
        if not c.halts and (max_steps or 1) > 1:
            raise UserError(f"max_steps: this model answers after one round, got {max_steps}")
        self.halt = halt or c.eval_halt
        if self.halt not in ("max", "adaptive"):
            raise UserError(f"halt: give max or adaptive, got {self.halt!r}")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.rounds = (max_steps or c.halt_max_steps) if c.halts else 1
        if c.mode == "prefix_ar":
            self._run = self._solve = jax.jit(_generated)
        else:
            self._run = jax.jit(functools.partial(_every_round, self.rounds))
            self._solve = jax.jit(functools.partial(_solved, self.rounds, self.halt == "adaptive"))

    def ask(
        self,
        questions: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        identifiers: Sequence[int] | None = None,
    ) -> Answers:
        """Answers to any number of questions, after every round.

        Args:
          questions: as text.
          progress: is told (done, total).
          identifiers: of the puzzles, for a model that has learned vectors of them; None: all 0.

        Raises:
          UserError: a question does not fit in a row, or has a symbol that a grid has not; a puzzle
            that the model has no vector of.
        """
        texts: list[list[str]] = [[] for _ in range(self.rounds)]
        halted = []
        rows, which = self._rows(questions, identifiers)
        for begin in range(0, len(rows), self.batch_size):
            part = rows[begin : begin + self.batch_size]
            tokens, rounds = self.run(part, which[begin : begin + self.batch_size])
            for text, ids in zip(texts, tokens, strict=True):
                text += [self._text(*pair) for pair in zip(ids, part, strict=True)]
            halted.append(rounds)
            if progress:
                progress(min(begin + self.batch_size, len(rows)), len(rows))
        return Answers(texts, np.concatenate(halted))

    def answer(
        self, questions: Sequence[str], identifiers: Sequence[int] | None = None
    ) -> list[str]:
        """What `chosen` gives of `ask`, thinking no longer than that takes."""
        texts = []
        rows, which = self._rows(questions, identifiers)
        for begin in range(0, len(rows), self.batch_size):
            part = rows[begin : begin + self.batch_size]
            ids = self.run(part, which[begin : begin + self.batch_size], self._solve)[0][0]
            texts += [self._text(*pair) for pair in zip(ids, part, strict=True)]
        return texts

    def chosen(self, answers: Answers) -> list[str]:
        """Of all rounds' answers, those to give."""
        return answers.adaptive if self.halt == "adaptive" else answers.last

    def run(
        self, rows: np.ndarray, identifiers: np.ndarray | None = None, program=None
    ) -> tuple[np.ndarray, np.ndarray]:
        """rows int (n <= batch_size, T), identifiers int (n,) -> (ids (R, n, T), rounds (n,))."""
        missing = self.batch_size - len(rows)
        which = np.zeros(len(rows), np.int32) if identifiers is None else identifiers
        # Filled up with the first row: an empty one would think on and on.
        full, which = (np.concatenate([x, x[:1].repeat(missing, 0)]) for x in (rows, which))
        tokens, rounds = jax.device_get((program or self._run)(self.model, full, which))
        return tokens[:, : len(rows)], rounds[: len(rows)]

    def _rows(self, questions, identifiers):
        """-> (int (n, T), int (n,)), as training showed such questions."""
        c = self.model.config
        which = identifiers or [0] * len(questions)
        if c.puzzle_ids and not all(0 <= i < c.puzzle_ids for i in which):
            raise UserError(f"puzzle: the model has vectors of 0 to {c.puzzle_ids - 1}")
        if c.mode != "grid":
            questions = [normalised(question) for question in questions]
        elif "0" not in self.tokenizer.symbols:
            questions = [question.replace("0", ".") for question in questions]
        pairs = [Pair(q, "", identifier=i) for q, i in zip(questions, which, strict=True)]
        laid = lay_out_pairs(pairs, self.tokenizer, c.mode, c.seq_len, answered=False)
        return laid.inputs, laid.identifiers

    def _text(self, ids, row) -> str:
        mode = self.model.config.mode
        if mode in ("nar", "as_written"):
            ids = read_answer(ids, row)
        return self.tokenizer.decode(ids)


def _every_round(rounds, model, tokens, identifiers):
    """-> (likeliest ids (R, B, T), round of halting int (B,))."""
    c = model.config

    def one(thoughts, _):
        thoughts, out = model(thoughts, tokens, None, identifiers)
        return thoughts, (jnp.argmax(out.logits, -1), act.should_halt(c, out))

    if not c.halts:
        _, out = model(None, tokens, None, identifiers)
        return jnp.argmax(out.logits, -1)[None], jnp.ones(tokens.shape[0], jnp.int32)
    start = model.initial_carry(*tokens.shape)
    _, (ids, wishes) = jax.lax.scan(one, start, None, rounds)
    first = jnp.argmax(wishes, 0) + 1
    return ids, jnp.where(wishes.any(0), first, rounds)


def _solved(rounds, adaptive, model, tokens, identifiers):
    """-> (likeliest ids (1, B, T) of the round in which each row halts, that round (B,))."""
    logits, halted, _ = model.solve(
        tokens, adaptive=adaptive, max_steps=rounds, identifiers=identifiers
    )
    return jnp.argmax(logits, -1)[None], halted.astype(jnp.int32)


def _generated(model, tokens, identifiers):
    del identifiers  # mode prefix_ar has no place for them
    ids = decoding.generate(model, tokens)
    return ids[None], jnp.ones(tokens.shape[0], jnp.int32)


class HRLMInference:
    """A trained run that is asked in text (L-61).

        model = HRLMInference("runs/translate")
        model.predict("Translate to Spanish: The house is red.")

    Args:
      workdir: folder of a run that answers questions.
      checkpoint: "best", "last", or a step.
      batch_size, max_steps, halt: see `Asker`.

    Raises:
      UserError: no such run, or its model does not answer questions.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        checkpoint: str = "best",
        batch_size: int = 1,
        max_steps: int | None = None,
        halt: str | None = None,
    ):
        from eval.run import load_trained

        trained, tokenizer = load_trained(workdir, checkpoint)
        if not traits_of(trained.model).solve:
            raise UserError(
                f"--workdir={workdir}: a {trained.config.model!r} continues text and answers no "
                "questions; use python -m eval.sample"
            )
        self.config = trained.config
        sizes = {"batch_size": batch_size, "max_steps": max_steps}
        self.asker = Asker(trained.model, tokenizer, halt=halt, **sizes)

    def predict(self, text: str, puzzle: int = 0) -> str:
        """The answer to one question; puzzle: its number, for a model with vectors of them."""
        return self.predict_all([text], [puzzle])[0]

    def predict_all(self, texts: Sequence[str], puzzles: Sequence[int] | None = None) -> list[str]:
        """The answer to each question."""
        return self.asker.answer(self._full(texts), puzzles)

    def ask(self, texts: Sequence[str], puzzles: Sequence[int] | None = None) -> Answers:
        """The answers after every round; see `Asker.ask`."""
        return self.asker.ask(self._full(texts), identifiers=puzzles)

    def _full(self, texts):
        """With what every question of the run's files was made to begin with."""
        data = self.config.data
        prefix = data.question_prefix if data.format == "pairs" else ""
        return [text if text.startswith(prefix) else prefix + text for text in texts]
