"""Fields that learn from a teacher: capture of what it computes, training, and comparison."""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from eval.fields.verify import regression_r2
from eval.run import Run, load_run
from jaxmodels.data import eval_stream, make_stream, split_documents, subsample
from jaxmodels.data.shards import INDEX, Shards, write_shards
from jaxmodels.errors import UserError
from jaxmodels.models.hft.config import TAUGHT
from jaxmodels.models.hft.learn import stage_one_target
from jaxmodels.models.hft.model import taught
from jaxmodels.models.streams import PARTS, streams

ROWS, TIME = 16, 64
_TWO = {"compressor": 512, "compressed": 128, "compressor_rate": 0.5}
FIELDS: dict[str, dict[str, Any]] = {
    "hidden and tail": {"segments": ("tokens", "ngrams", "hidden")},
    "hidden alone": {"segments": ("hidden",)},
    "tail alone": {"segments": ("tokens", "ngrams")},
    "hidden, queries, keys and values": {"segments": ("hidden", *PARTS)},
    "queries, keys and values": {"segments": PARTS},
    "two stages, apart": _TWO | {"compressor_learns": "hidden"},
    "two stages, through both": _TWO | {"compressor_learns": "prediction"},
    "two stages, both losses": _TWO | {"compressor_learns": "both"},
}
CLASSES = ("letter", "space", "digit", "punctuation", "other")


class Capture:
    """A teacher's hidden states in shards, with the batches that they belong to.

    With attention, its queries, keys and values of all layers too.

    Attributes:
      model: the teacher; run: its run.
      sizes: of the vectors of a token, by name.
      scales: 1 / their mean norm, for segments of norm 1.
    """

    def __init__(self, run: Run, folder: Path, steps: int, contexts: int):
        self.run, self.model, self.folder = run, run.model, folder
        if not hasattr(run.model, "hidden"):
            raise UserError(f"--teacher: model {run.config.model!r} tells no hidden states")
        if run.config.data.tokenizer != "byte":
            raise UserError("--teacher: classes of input are of bytes; train it on bytes")
        self.steps = steps
        self.held = subsample(run.corpus.valid, contexts)
        self._read = jax.jit(lambda m, s, b: streams(m, s, b["inputs"], b["reset"]))
        self._logits = jax.jit(lambda m, h: jax.nn.log_softmax(m._logits(h)))
        found = jax.eval_shape(
            lambda m: streams(m, m.initial_state(1), jnp.zeros((1, 1), jnp.int32))[1], run.model
        )
        self.sizes = {name: x.shape[-1] for name, x in found.items()}
        for part in ("train", "valid"):
            if not (folder / part / INDEX).exists():
                write_shards(folder / part, self._capture(part))
        first = self._parts(Shards(folder / "train", sum(self.sizes.values()))[0][0])
        self.scales = {
            name: np.float32(1.0 / np.linalg.norm(x, axis=-1).mean()) for name, x in first.items()
        }

    def _parts(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Split what a shard holds (..., all sizes), in float32."""
        ends = np.cumsum(list(self.sizes.values()))[:-1]
        return dict(zip(self.sizes, np.split(x.astype(np.float32), ends, -1), strict=True))

    def _stream(self, part: str) -> Iterator[dict[str, np.ndarray]]:
        if part == "valid":
            return iter(eval_stream(self.held, batch_size=ROWS, seq_len=TIME))
        config = self.run.config
        pieces = split_documents(self.run.corpus.train, config.data.piece_tokens or None)
        stream = make_stream(pieces, batch_size=ROWS, seq_len=TIME, seed=config.seed)
        return itertools.islice(iter(stream), self.steps)

    def _capture(self, part):
        state = self.model.initial_state(ROWS)
        for batch in self._stream(part):
            state, found = self._read(self.model, state, batch)
            x = np.concatenate([found[name] for name in self.sizes], -1)
            yield x.reshape(-1, x.shape[-1]), batch["targets"].reshape(-1)

    def allows(self, field: str) -> bool:
        """Return whether the teacher has what a field of `FIELDS` reads."""
        return not {*FIELDS[field].get("segments", ())} & {*TAUGHT} - {*self.sizes}

    def batches(self, part: str) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches with `hidden` (B, T, h), of norm near 1, and `teacher`, log p (B, T, V).

        Also with `queries`, `keys` and `values`, if there are any.
        """
        shards = Shards(self.folder / part, sum(self.sizes.values()))
        for batch, shard in itertools.zip_longest(self._stream(part), shards):
            same = batch is not None and shard is not None
            if not same or not np.array_equal(shard[1], batch["targets"].reshape(-1)):
                raise UserError(f"{self.folder / part}: shards of other text; name another folder")
            found = self._parts(shard[0].reshape(*batch["targets"].shape, -1))
            logs = np.asarray(self._logits(self.model, found["hidden"]))
            scaled = {name: x * self.scales[name] for name, x in found.items()}
            yield dict(batch) | scaled | {"teacher": logs}


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """Capture the teacher, train every field, and return what each keeps of the teacher.

    Raises:
      UserError: no run, a teacher without hidden states or of other tokens, or foreign shards.
    """
    run = load_run(options.teacher, checkpoint=options.checkpoint)
    capture = Capture(run, Path(options.workdir), options.steps, options.contexts)
    if wrong := [name for name in options.fields or () if not capture.allows(name)]:
        raise UserError(f"--fields: {wrong[0]!r} needs a teacher with attention")
    held = list(capture.batches("valid"))
    real = np.concatenate([b["weights"].reshape(-1) > 0 for b in held])
    logs, targets, last = (
        np.concatenate([b[k].reshape(b["targets"].size, -1) for b in held]).squeeze()[real]
        for k in ("teacher", "targets", "inputs")
    )
    own = -logs[np.arange(len(targets)), targets].mean()
    seen = np.concatenate([b["targets"].ravel() for b in capture._stream("train")])
    counts = np.bincount(seen, minlength=256) + 1.0
    unigram = -np.log(counts / counts.sum())[targets].mean()
    fields, chosen = {}, options.fields or [name for name in FIELDS if capture.allows(name)]
    for name in chosen:
        model = train(capture, FIELDS[name], options)
        fields[name] = compare(model, held, real, (logs, targets, last), (own, unigram))
    return {
        "teacher": f"{run.config.model}, step {run.step}",
        "teacher_loss": float(own),
        "unigram_loss": float(unigram),
        "seed": options.seed,
        "training_contexts": len(seen),
        "held_out_contexts": len(targets),
        "fields": fields,
    }


def train(capture: Capture, changes: dict[str, Any], options: argparse.Namespace):
    """Train a field on the captured contexts: to give the teacher's distribution."""
    segments = changes.get("segments", ("tokens", "ngrams", "hidden"))
    more = {"segments": segments, "tensors": options.tensors}
    more |= {TAUGHT[name]: size for name, size in capture.sizes.items()}
    model = jaxmodels.create("hft", seed=options.seed, **(more | changes))

    def learn(model, state, batch):
        batch = batch | {"teacher": jnp.exp(batch["teacher"])}
        model, state, _ = model.local_update(state, batch, key=None, axis_name="data")
        return model, state

    step = jax.jit(jax.vmap(learn, axis_name="data"), donate_argnums=0)
    model, state = (jax.tree.map(lambda x: x[None], p) for p in (model, model.initial_state(ROWS)))
    for batch in capture.batches("train"):
        model, state = step(model, state, {name: x[None] for name, x in batch.items()})
    return jax.tree.map(lambda x: x[0], model)


def compare(model, held, real, truth, losses) -> dict[str, Any]:
    """Return KL to the teacher, overall and by class of the last byte, and what else is kept.

    Args:
      model: the field.
      held: batches of `Capture`; real: bool (n,), their positions that are targets.
      truth: the teacher's log p (n, V), targets (n,) and last bytes (n,).
      losses: of the teacher and of unigrams.
    """
    logs, targets, last = truth
    read = jax.jit(lambda m, s, b: m(s, b["inputs"], b["reset"], vectors=taught(b)))
    state, parts = model.initial_state(ROWS), []
    for batch in held:
        state, out = read(model, state, batch)
        mine = jax.nn.log_softmax(out.logits).reshape(-1, out.logits.shape[-1])
        hidden = batch["hidden"].reshape(len(mine), -1)
        parts.append((np.asarray(mine), np.asarray(out.inputs), hidden))
    mine, inputs, hidden = (np.concatenate(p)[real] for p in zip(*parts, strict=True))
    kl = (np.exp(logs) * (logs - mine)).sum(1)
    loss, (own, unigram) = -mine[np.arange(len(targets)), targets].mean(), losses
    kinds = class_of(last)
    result = {
        "kl": float(kl.mean()),
        "kl_by_class": {
            name: float(kl[kinds == i].mean()) if (kinds == i).any() else None
            for i, name in enumerate(CLASSES)
        },
        "loss": float(loss),
        "perplexity_ratio": float(np.exp(loss - own)),
        "kept": float((unigram - loss) / (unigram - own)),
        "r2": regression_r2(inputs, logs),
    }
    c = model.config
    if c.compressor:
        wanted = np.asarray(stage_one_target(c, hidden))
        given = inputs[:, c.features :]
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
        result["cosine"] = float(((wanted * given).sum(1) / np.maximum(norms, 1e-9)).mean())
    return result


def class_of(last: np.ndarray) -> np.ndarray:
    """Return the class of bytes (n,), as an index into CLASSES."""
    kinds = np.full(256, 4)
    for byte in range(128):
        text = chr(byte)
        if text.isalpha():
            kinds[byte] = 0
        elif text.isspace():
            kinds[byte] = 1
        elif text.isdigit():
            kinds[byte] = 2
        elif text.isprintable():
            kinds[byte] = 3
    return kinds[last]
