"""The run of all checks of a field, and their tables."""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.fields import heads, verify
from eval.log import device_description, versions
from eval.report.document import Block, Heading, Text
from eval.report.field_page import tables
from eval.report.run_page import write_report
from eval.run import Run, load_run
from jaxmodels.cli import write_json
from jaxmodels.data import eval_stream, make_stream, split_documents, subsample
from jaxmodels.errors import UserError
from jaxmodels.models.hft.model import HFT

ROWS, TIME = 16, 64
NEIGHBOURS = 131_072  # most examples that the nearest-neighbour head keeps


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Check a run's field and return the result.

    Raises:
      UserError: no run, or one of another model; too few contexts.
    """
    if options.contexts < 256 or options.examples < 0:
        raise UserError(
            f"--contexts must be 256 or more, --examples 0 or more; got {options.contexts} and "
            f"{options.examples}"
        )
    start = time.perf_counter()
    trained = load_run(options.workdir, checkpoint=options.checkpoint)
    model = trained.model
    if not isinstance(model, HFT):
        raise UserError(f"--workdir={options.workdir}: model {trained.config.model!r} has no field")
    parts = _contexts(model, trained, options.contexts)
    inputs, logits, targets = (parts[name] for name in ("inputs", "logits", "targets"))
    c = model.config
    result = {
        "command": command,
        "model": trained.config.model,
        "step": trained.step,
        "seed": trained.config.seed,
        "sketches": verify.sketch_check(c, parts["windows"], parts["positions"], parts["features"]),
        "tensors": verify.tensor_check(c.predictor, model.field, inputs),
        "locality": {"trained": verify.locality_check(c.predictor, model.field, inputs)},
        "features_r2": verify.regression_r2(np.asarray(parts["features"]), np.asarray(logits)),
        "relocation": verify.relocation_check(c, model.field, inputs, targets),
    }
    result["locality"] |= {
        f"random, {kind}": shares
        for kind, shares in verify.random_locality(c.predictor, inputs).items()
    }
    held_out = parts["features"], targets
    nll = -jax.nn.log_softmax(logits)[jnp.arange(len(targets)), targets]
    result["bits"] = {"hft": float(nll.mean()) / np.log(2.0)}
    if options.examples:
        result["bits"] |= _heads(model, trained, held_out, options.examples, parts["documents"])
        result["examples"] = _steps(options.examples) * ROWS * TIME
    result |= {
        "device": device_description(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return result


def store(options: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """Write `field.json` and the report; return their paths."""
    path = Path(options.workdir) / "field.json"
    write_json(path, result)
    return [str(path), str(write_report(options.workdir))]


def _contexts(model: HFT, trained: Run, count: int) -> dict[str, Any]:
    """Return held-out contexts, what the model makes of them, and their targets."""
    documents = subsample(trained.corpus.valid, count)
    stream = eval_stream(documents, batch_size=ROWS, seq_len=TIME)
    state, parts = model.initial_state(ROWS), []

    @jax.jit
    def read(model, state, batch):
        after, windows, positions = model.contexts(state, batch["inputs"], batch["reset"])
        _, out = model(state, batch["inputs"], batch["reset"])
        flat = {"windows": windows, "positions": positions, "logits": out.logits}
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in flat.items()}
        return after, flat | {"features": out.features, "inputs": out.inputs}

    for batch in stream:
        state, part = read(model, state, batch)
        real = batch["weights"].reshape(-1) > 0
        part = {name: np.asarray(x)[real] for name, x in part.items()}
        parts.append(part | {"targets": batch["targets"].reshape(-1)[real]})
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    whole = {name: jnp.asarray(x) for name, x in whole.items()}
    return whole | {"documents": documents}


def _heads(model: HFT, trained: Run, held_out, examples: int, documents) -> dict[str, Any]:
    c, seed = model.config, trained.config.seed
    steps = _steps(examples)
    pieces = split_documents(trained.corpus.train, trained.config.data.piece_tokens or None)

    @jax.jit
    def features(state, batch):
        state, x = model.features(state, batch["inputs"], batch["reset"])
        return state, x.reshape(-1, c.features)

    def projected():
        stream = make_stream(pieces, batch_size=ROWS, seq_len=TIME, seed=seed)
        state = model.initial_state(ROWS)
        for batch in itertools.islice(iter(stream), steps):
            state, x = features(state, batch)
            yield np.asarray(x, np.float16), batch["targets"].reshape(-1)

    kept = list(projected())  # as the field itself would cache them

    def batches():
        return ((jnp.asarray(x, jnp.float32), jnp.asarray(y)) for x, y in kept)

    def tokens():
        stream = make_stream(pieces, batch_size=ROWS, seq_len=TIME, seed=seed)
        rows = [b["inputs"] for b in itertools.islice(iter(stream), steps)]
        return list(np.concatenate(rows, 1))

    classes = c.vocab_size
    recent = kept[-(NEIGHBOURS // (ROWS * TIME)) :]
    x, y = (np.concatenate([b[i] for b in recent]) for i in range(2))
    recent = jnp.asarray(x, jnp.float32), jnp.asarray(y)
    counts = heads.KneserNey(6, classes).fit(tokens())
    p = np.concatenate([counts.probability(d.tokens) for d in documents])
    unigram = heads.KneserNey(1, classes).fit(tokens())
    q = np.concatenate([unigram.probability(d.tokens) for d in documents])
    return {
        "unigram": float(-np.log2(q).mean()),
        "softmax": heads.softmax_bits(batches, held_out, classes, steps),
        f"knn of {len(y)}": heads.knn_bits(recent, held_out, classes),
        "ridge": heads.ridge_bits(batches(), held_out, classes),
        "kneser-ney of order 6": float(-np.log2(p).mean()),
    }


def _steps(examples: int) -> int:
    """Return the number of batches that hold about as many examples, at least 1."""
    return max(examples // (ROWS * TIME), 1)


def summary(result: dict[str, Any]) -> list[Block]:
    """Format a result as tables."""
    title = f"{result['model']}, step {result['step']}"
    end = f"{result['seconds']:.0f} s on {result['device']}"
    return [Heading(title), *tables(result), Text(end, "missing")]
