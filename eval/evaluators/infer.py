"""Inference of question-answering models: text in, text out, with the number of ACT steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.data.pairs.alphabet import check_alphabet
from jaxmodels.data.pairs.layout import read_answer
from jaxmodels.data.pairs.rows import Pair, lay_out_pairs, prefixed
from jaxmodels.errors import UserError
from jaxmodels.models import decoding
from jaxmodels.models.contract import traits_of
from jaxmodels.models.hrlm import act
from train.tasks.fields import PREFIXED


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to n questions after each of R ACT steps.

    Attributes:
      by_round: R lists of n texts, the answers after each ACT step.
      rounds: int (n,), the step (from 1) at which the Q-head halts; R if it never does.
      sure: float (R, n), the probability of being right after each step, by the Q-head; None =
        unknown.
    """

    by_round: list[list[str]]
    rounds: np.ndarray
    sure: np.ndarray | None = None

    @property
    def last(self) -> list[str]:
        """Answers after the last ACT step."""
        return self.by_round[-1]

    @property
    def adaptive(self) -> list[str]:
        """Answers after the ACT step at which the model halts."""
        return self.after(self.rounds)

    def after(self, rounds: Sequence[int]) -> list[str]:
        """Return each answer after a step of its own, from 1."""
        return [self.by_round[r - 1][i] for i, r in enumerate(rounds)]

    def rounds_of(self, confidence: float) -> np.ndarray:
        """Return int (n,), the first step that is at least as sure, else the last, R."""
        enough = self.sure >= confidence
        return np.where(enough.any(0), np.argmax(enough, 0) + 1, len(self.by_round))


class Answerer:
    """Text interface to a model, compiled once for a batch size.

    Args:
      model: an `HRLM` of any mode.
      tokenizer: the tokenizer of its training.
      batch_size: rows per batch; smaller batches are padded.
      max_steps: limit of ACT steps; None = `halt_max_steps` of the model.
      halt: "adaptive" selects the answer of the step at which the model halts, "max" that of the
        last step; None = `eval_halt` of the model.
      confidence: probability of being right from which it halts; None = `eval_confidence` of the
        model.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        batch_size: int = 64,
        max_steps: int | None = None,
        halt: str | None = None,
        confidence: float | None = None,
    ):
        if batch_size < 1:
            raise UserError(f"batch_size: give 1 or more, got {batch_size}")
        if max_steps is not None and max_steps < 1:
            raise UserError(f"max_steps: give 1 or more, got {max_steps}")
        c = model.config
        if not c.halts and (max_steps or 1) > 1:
            raise UserError(f"max_steps: this model has a single ACT step, got {max_steps}")
        self.halt = halt or c.eval_halt
        if self.halt not in ("max", "adaptive"):
            raise UserError(f"halt: give max or adaptive, got {self.halt!r}")
        if not c.halts and confidence is not None:
            raise UserError(f"confidence: this model has a single ACT step, got {confidence}")
        least = c.eval_confidence if confidence is None else confidence
        if not 0.0 <= least <= 1.0:
            raise UserError(f"confidence: give a probability from 0 to 1, got {least!r}")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.rounds = (max_steps or c.halt_max_steps) if c.halts else 1
        if c.mode == "prefix_ar":
            self._run = self._solve = jax.jit(_generate)
        else:
            adaptive = self.halt == "adaptive"
            self._run = jax.jit(functools.partial(_run_all_steps, self.rounds, least))
            self._solve = jax.jit(functools.partial(_solve, self.rounds, adaptive, least))

    def ask(
        self,
        questions: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        identifiers: Sequence[int] | None = None,
    ) -> Answers:
        """Answer any number of questions; return the answers after every ACT step.

        Args:
          questions: texts as in training, see `jaxmodels.data.pairs.rows.prefixed`.
          progress: called with (done, total).
          identifiers: puzzle ids, for a model with puzzle embeddings; None = all 0.

        Raises:
          UserError: a question that does not fit in a row or has an invalid grid symbol, or an
            unknown puzzle id.
        """
        by_round: list[list[str]] = [[] for _ in range(self.rounds)]
        halted, sure = [], []
        for answers, rounds, q in self._batches(questions, identifiers, self._run):
            for texts, more in zip(by_round, answers, strict=True):
                texts += more
            halted.append(rounds)
            sure.append(q)
            if progress:
                progress(len(by_round[0]), len(questions))
        return Answers(by_round, np.concatenate(halted), np.concatenate(sure, 1))

    def answer(
        self, questions: Sequence[str], identifiers: Sequence[int] | None = None
    ) -> list[str]:
        """Return `select(ask(...))`, without running ACT steps past the halt."""
        batches = self._batches(questions, identifiers, self._solve)
        return [text for (texts,), *_ in batches for text in texts]

    def select(self, answers: Answers) -> list[str]:
        """Return the answers of the step that `halt` selects."""
        return answers.adaptive if self.halt == "adaptive" else answers.last

    def _batches(self, questions, identifiers, program):
        """Yield the texts of each batch, a list per ACT step of the program, steps and `sure`."""
        rows, ids = self._rows(questions, identifiers)
        for begin in range(0, len(rows), self.batch_size):
            part = rows[begin : begin + self.batch_size]
            tokens, *more = self.run(part, ids[begin : begin + self.batch_size], program)
            yield [list(map(self._text, answers, part)) for answers in tokens], *more

    def run(
        self, rows: np.ndarray, identifiers: np.ndarray | None = None, program=None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run rows int (n <= batch_size, T).

        Returns (token ids (R, n, T), ACT steps (n,), `Answers.sure` (R, n)).
        """
        missing = self.batch_size - len(rows)
        ids = np.zeros(len(rows), np.int32) if identifiers is None else identifiers
        # Pad with copies of the first row: an empty row might never halt.
        full, ids = (np.concatenate([x, x[:1].repeat(missing, 0)]) for x in (rows, ids))
        tokens, rounds, sure = jax.device_get((program or self._run)(self.model, full, ids))
        return tokens[:, : len(rows)], rounds[: len(rows)], sure[:, : len(rows)]

    def _rows(self, questions, identifiers):
        """Lay out questions as in training; return (tokens int (n, T), puzzle ids int (n,))."""
        c = self.model.config
        ids = identifiers or [0] * len(questions)
        if c.puzzle_ids and not all(0 <= i < c.puzzle_ids for i in ids):
            raise UserError(f"puzzle: must be 0 to {c.puzzle_ids - 1} for this model")
        if c.mode == "grid" and "0" not in self.tokenizer.symbols:
            questions = [question.replace("0", ".") for question in questions]
        if c.mode == "grid":
            for question in questions:
                if len(question) != c.seq_len:
                    raise UserError(
                        f"{question!r:.120}: has {len(question)} cells, this model reads grids of "
                        f"{c.seq_len}, in one line"
                    )
        pairs = [Pair(q, "", identifier=i) for q, i in zip(questions, ids, strict=True)]
        rows = lay_out_pairs(pairs, self.tokenizer, c.mode, c.seq_len, c.limits, answered=False)
        return rows.inputs, rows.identifiers

    def _text(self, ids, row) -> str:
        mode = self.model.config.mode
        if mode in ("nar", "as_written"):
            ids = read_answer(ids, row)
        return self.tokenizer.decode(ids)


def _run_all_steps(rounds, confidence, model, tokens, identifiers):
    """Return (argmax token ids (R, B, T), ACT step of halting int (B,), sigmoid(q_halt) (R, B))."""
    c = model.config

    def act_step(carry, _):
        carry, out = model(carry, tokens, None, identifiers)
        halts = act.should_halt(c, out, confidence)
        return carry, (jnp.argmax(out.logits, -1), halts, jax.nn.sigmoid(out.q_halt))

    if not c.halts:
        _, out = model(None, tokens, None, identifiers)
        sure = jax.nn.sigmoid(out.q_halt)[None]
        return jnp.argmax(out.logits, -1)[None], jnp.ones(tokens.shape[0], jnp.int32), sure
    start = model.initial_carry(*tokens.shape)
    _, (ids, halts, sure) = jax.lax.scan(act_step, start, None, rounds)
    first = jnp.argmax(halts, 0) + 1
    return ids, jnp.where(halts.any(0), first, rounds), sure


def _solve(rounds, adaptive, confidence, model, tokens, identifiers):
    """Return (argmax token ids (1, B, T) at each row's halt, its ACT step (B,), its `sure`)."""
    logits, halted, (q_halt, _) = model.solve(
        tokens,
        adaptive=adaptive,
        max_steps=rounds,
        identifiers=identifiers,
        confidence=confidence,
    )
    sure = jax.nn.sigmoid(q_halt)[None]
    return jnp.argmax(logits, -1)[None], halted.astype(jnp.int32), sure


def _generate(model, tokens, identifiers):
    del identifiers  # mode prefix_ar has no puzzle embeddings
    ids = decoding.generate(model, tokens)
    rows = tokens.shape[0]
    return ids[None], jnp.ones(rows, jnp.int32), jnp.full((1, rows), jnp.nan)


class HRLMInference:
    """Text interface to a trained run (docs/systems.md, L-61).

        model = HRLMInference("runs/translate")
        model.predict("Translate to Spanish: The house is red.")

    Args:
      workdir: folder of a run that answers questions.
      checkpoint: "best", "last", or a step.
      batch_size, max_steps, halt, confidence: see `Answerer`.

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
        confidence: float | None = None,
        base: str | Path | None = None,
    ):
        from eval.run import load_trained

        trained, tokenizer = load_trained(workdir, checkpoint, base)
        if not traits_of(trained.model).solve:
            raise UserError(
                f"--workdir={workdir}: a {trained.config.model!r} continues text and does not "
                "answer questions; use python -m eval.sample"
            )
        self.config = trained.config
        sizes = {"batch_size": batch_size, "max_steps": max_steps, "confidence": confidence}
        self.answerer = Answerer(trained.model, tokenizer, halt=halt, **sizes)

    def predict(self, text: str, puzzle: int = 0) -> str:
        """Answer one question; `puzzle` is its id, for a model with puzzle embeddings."""
        return self.predict_all([text], [puzzle])[0]

    def predict_all(self, texts: Sequence[str], puzzles: Sequence[int] | None = None) -> list[str]:
        """Answer each question."""
        return self.answerer.answer(self._as_trained(texts), puzzles)

    def ask(self, texts: Sequence[str], puzzles: Sequence[int] | None = None) -> Answers:
        """Return the answers after every ACT step; see `Answerer.ask`."""
        return self.answerer.ask(self._as_trained(texts), identifiers=puzzles)

    def notes(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return lines on what the tokenizer does not know of the questions.

        Raises:
          UserError: that is more than `config.data.max_unused` of them, or several become one row.
        """
        pairs = [Pair(question, "") for question in self._as_trained(texts)]
        limit = self.config.data.max_unused
        return check_alphabet({"the questions": pairs}, self.answerer.tokenizer, limit)

    def _as_trained(self, texts):
        """Return questions as in training, behind the question prefix of the run's data."""
        data = self.config.data
        prefix = data.question_prefix if data.format in PREFIXED else ""
        if self.answerer.model.config.mode == "grid" and not prefix:
            return list(texts)
        return [prefixed(text, prefix) for text in texts]
