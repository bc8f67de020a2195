"""The table of heads: the field of a run beside other predictors, at equal training examples.

Settings (rates, temperatures, weights of a mixture) are chosen on validation text, and every row is
scored on test text too.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from eval.fields import HEADS, heads
from eval.fields.ngram import KneserNey, fit_mixture, mixture_nll
from eval.run import Run, load_run
from jaxmodels.data import Document, eval_stream, make_stream, split_documents
from jaxmodels.errors import UserError
from jaxmodels.models.hft.model import HFT
from jaxmodels.ops.losses import token_nll

ROWS, TIME = 16, 64
NEIGHBOURS = 131_072  # most examples that the nearest-neighbour head keeps
ORDER = 6  # of the n-gram model


@dataclass(frozen=True)
class HeldOut:
    """Held-out contexts, those of validation first, what the field makes of them, and targets.

    Attributes:
      documents: their text, validation and test.
      chosen: number of contexts from validation text.
      windows: int32 (n, L); positions: int32 (n,); features, inputs: float32 (n, d), projected and
        as the predictor reads them; logits: float32 (n, V); targets: int32 (n,).
    """

    documents: tuple[Sequence[Document], Sequence[Document]]
    chosen: int
    windows: jax.Array
    positions: jax.Array
    features: jax.Array
    inputs: jax.Array
    logits: jax.Array
    targets: jax.Array

    def row(self, bits: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the row of a head: its best setting on validation text, and bits on both parts.

        Args:
          bits: setting -> bits of each target (n,).
        """
        means = {name: float(values[: self.chosen].mean()) for name, values in bits.items()}
        best = min(means, key=means.get)
        row = {"setting": best, "valid": means[best]}
        if self.chosen < len(self.targets):
            row["test"] = float(bits[best][self.chosen :].mean())
        return row | ({"tried": means} if len(means) > 1 else {})

    def field_row(self) -> dict[str, Any]:
        """Return the row of the field itself."""
        return self.row({"": np.asarray(token_nll(self.logits, self.targets)) / heads.LOG2})


def held_out(model: HFT, documents: tuple[Sequence[Document], Sequence[Document]]) -> HeldOut:
    """Read validation and test documents with a model."""

    @jax.jit
    def read(model, state, batch):
        after, windows, positions = model.contexts(state, batch["inputs"], batch["reset"])
        _, out = model(state, batch["inputs"], batch["reset"])
        flat = {"windows": windows, "positions": positions, "logits": out.logits}
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in flat.items()}
        return after, flat | {"features": out.features, "inputs": out.inputs}

    parts, chosen = [], 0
    for number, batch, part in _scan(read, model, documents):
        real = batch["weights"].reshape(-1) > 0
        part = {name: np.asarray(x)[real] for name, x in part.items()}
        parts.append(part | {"targets": batch["targets"].reshape(-1)[real]})
        chosen += int(real.sum()) if number == 0 else 0
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return HeldOut(documents, chosen, **{name: jnp.asarray(x) for name, x in whole.items()})


def _scan(read, model, documents):
    """Yield (number of the part, batch, result) of held-out text, always in the same order."""
    for number, part in enumerate(documents):
        state = model.initial_state(ROWS)
        for batch in eval_stream(part, batch_size=ROWS, seq_len=TIME) if part else ():
            state, result = read(model, state, batch)
            yield number, batch, result


def peer_rows(trained: Run, peers: Sequence[str], checkpoint: str, held: HeldOut) -> dict[str, Any]:
    """Return {name: row} of other models, trained on the same bytes; several runs are settings.

    Args:
      trained: the run of the field.
      peers: folders of runs.
      checkpoint: of the peers: "best", "last" or a step.
      held: held-out contexts.

    Raises:
      UserError: a run on other text.
    """
    rows: dict[str, dict[str, np.ndarray]] = {}
    for folder in peers:
        run = load_run(folder, checkpoint=checkpoint)
        if run.data != trained.data:
            raise UserError(f"--peer={folder}: trained on other text than {trained.workdir}")

        @jax.jit
        def score(model, state, batch):
            state, out = model(state, batch["inputs"], batch["reset"])
            return state, token_nll(out.logits, batch["targets"])

        bits = [
            np.asarray(nll)[batch["weights"] > 0] / heads.LOG2
            for _, batch, nll in _scan(score, run.model, held.documents)
        ]
        c = run.config
        seen = run.step * c.batch_size * c.seq_len
        name = f"{c.model}, {jaxmodels.count_parameters(run.model):,} parameters, {seen:,} targets"
        rate = f"rate {c.optimizer.learning_rate:g}, seed {c.seed}"
        rows.setdefault(name, {})[rate] = np.concatenate(bits)
    return {name: held.row(bits) for name, bits in rows.items()}


def head_rows(
    trained: Run, held: HeldOut, examples: int, names: Sequence[str] = HEADS
) -> dict[str, Any]:
    """Return {head: row}: n-grams, the field with those, and heads on its features.

    Args:
      trained: the run of the field.
      held: held-out contexts.
      examples: training targets of each head.
      names: of HEADS, which are slow.
    """
    classes = trained.model.config.vocab_size
    kept = training_contexts(trained, examples)  # as the field itself would cache them

    def batches():
        return ((jnp.asarray(x, jnp.float32), jnp.asarray(y)) for x, y, _ in kept)

    pair, targets = (held.features, held.targets), np.asarray(held.targets)
    recent = kept[-(NEIGHBOURS // (ROWS * TIME)) :]
    x, y = (np.concatenate([b[i] for b in recent]) for i in range(2))
    recent = jnp.asarray(x, jnp.float32), jnp.asarray(y)
    seen_windows, seen = (np.concatenate([b[i] for b in kept]) for i in (2, 1))
    grams = KneserNey(ORDER, classes).fit(seen_windows, seen)
    counts = np.log(grams.distributions(np.asarray(held.windows)))
    unigram = np.log(np.bincount(seen, minlength=classes) + 1.0)
    unigram -= np.log(np.exp(unigram).sum())
    field = np.asarray(jax.nn.log_softmax(held.logits))

    def bits(weights, *logs):
        return mixture_nll(logs, np.asarray(weights), targets) / heads.LOG2

    def mixture(*logs):
        weights = fit_mixture([log[: held.chosen] for log in logs], targets[: held.chosen])
        name = " + ".join(f"{w:.3f}" for w in weights)
        return held.row({name: bits(weights, *logs)})

    rows = {
        "unigram": held.row({"": -unigram[targets] / heads.LOG2}),
        f"kneser-ney of order {ORDER}": held.row({"": bits([1.0], counts)}),
        "kneser-ney to a power": mixture(counts),
        "hft x kneser-ney, log-linear": mixture(field, counts),
    }
    if "softmax" in names:
        rows["softmax"] = held.row(heads.softmax_bits(batches, pair, classes, len(kept)))
    if "knn" in names:
        rows[f"knn of {len(y):,}"] = held.row(heads.knn_bits(recent, pair, classes))
    if "ridge" in names:
        rows["ridge"] = held.row(heads.ridge_bits(batches(), pair, classes))
    return rows


def training_contexts(trained: Run, examples: int) -> list[tuple[np.ndarray, ...]]:
    """Return (features float16 (n, d), targets (n,), windows (n, L)) of each training batch."""
    model, config = trained.model, trained.config
    pieces = split_documents(trained.corpus.train, config.data.piece_tokens or None)
    stream = make_stream(pieces, batch_size=ROWS, seq_len=TIME, seed=config.seed)

    @jax.jit
    def features(state, batch):
        _, windows, _ = model.contexts(state, batch["inputs"], batch["reset"])
        state, x = model.features(state, batch["inputs"], batch["reset"])
        return state, x.reshape(-1, x.shape[-1]), windows.reshape(-1, windows.shape[-1])

    state, kept = model.initial_state(ROWS), []
    for batch in itertools.islice(iter(stream), steps_of(examples)):
        state, x, windows = features(state, batch)
        kept.append((np.asarray(x, np.float16), batch["targets"].reshape(-1), np.asarray(windows)))
    return kept


def steps_of(examples: int) -> int:
    """Return the number of batches that hold about as many examples, at least 1."""
    return max(examples // (ROWS * TIME), 1)
