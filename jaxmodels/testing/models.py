"""Conformance suite of models: checks the contract with trainer and evaluators.

    check_model("rwkv")                              # a name in MODELS, small sizes
    check_model(create(vocab_size=17, width=32))     # any other model

The promises about sequences apply only to left-to-right language models, whose call takes (state,
tokens, reset) and returns logits (B, T, vocab). As in the suite for cells, parameters that start at
zero are replaced by noise.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from jaxmodels.models.contract import (
    Traits,
    loss_names,
    loss_weights,
    main_term,
    target_counts,
    traits_of,
)
from jaxmodels.testing import Result, results_of
from jaxmodels.testing.lab import compare, gradients_of_all, need, quick_jit, same_bits, shaken
from jaxmodels.testing.leaves import meaningless
from jaxmodels.testing.ragged import layouts
from jaxmodels.tree import flatten

BATCH, TIME, CUT = 3, 12, 5
# Different orders of summation in float32 differ by about 1e-6 of the largest logit here; a missing
# or misplaced operation by at least 1e-2.
VALUES = 1e-4
# Sizes that compile in seconds; a config gets those that it has fields for.
SMALL = {
    "vocab_size": 17,
    "width": 32,
    "num_layers": 2,
    "window": 20,
    "head_size": 8,
    "hidden_size": 48,
    "symbol_slots": 4,
    "role_slots": 2,
    "relation_size": 8,
    "abstraction_sizes": (48, 16),
    "seq_len": TIME,
    "high_layers": 1,
    "low_layers": 1,
    "mlp_multiple": 32,
    "halt_max_steps": 3,
    "chunk_size": 4,
    "plan_layers": 1,
    "plan_steps": 2,
    "tensors": 32,
    "sketch_size": 64,
    "ngram_bins": 64,
    "queue": 16,
    "relocated": 4,
}


def small_config(name: str, **fields):
    """Return the config of a model in MODELS, "system" or "system/preset", with small sizes."""
    accepted = {field.name for field in dataclasses.fields(jaxmodels.make_config(name))}
    return jaxmodels.make_config(name, **{k: v for k, v in SMALL.items() if k in accepted} | fields)


def check_model(model, *, batch=None, frozen=(), raises=True) -> list[Result]:
    """Check every promise that applies to a model, and print one line for each.

    Args:
      model: a name in `MODELS`, a config of one of them, or a model with small sizes.
      batch: {field: array (3, 12, ...)}, fields that `loss_sums` reads in addition to inputs,
        targets, weights and reset.
      frozen: suffixes of names of parameters that need no gradient.
      raises: raise AssertionError if a promise is broken.

    Raises:
      AssertionError: a promise is broken; lists them.
      UserError: no such model.
    """
    name = model if isinstance(model, str) else type(model).__name__
    model = small_config(model) if isinstance(model, str) else model
    config = model if dataclasses.is_dataclass(model) else None
    print(f"{name} {config or ''}".rstrip(), flush=True)
    with jax.default_matmul_precision("highest"):
        built = model if config is None else jaxmodels.create(config)
        return results_of(name, lambda: ModelLab(built, batch, frozen), PROMISES, raises)


class ModelLab:
    """Model, batch, and the compiled functions that the promises share."""

    def __init__(self, model, batch, frozen):
        self.model, self.frozen = shaken(model, 0), tuple(frozen)
        self.traits = traits_of(model)
        rng = np.random.default_rng(0)
        vocab = self._vocab_of_call()
        self.is_sequential = vocab is not None
        vocab = vocab or model.config.vocab_size
        tokens = rng.integers(1, vocab, (BATCH, TIME + 1), np.int32)
        weights = (rng.random((BATCH, TIME)) < 0.7).astype(np.float32)
        weights[:, -1] = 1.0  # every row has a target
        self.batch = {
            "inputs": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "weights": weights,
            "reset": rng.random((BATCH, TIME)) < 0.1,
        } | (batch or {})
        self.tokens, self.no_reset = self.batch["inputs"], np.zeros((BATCH, TIME), bool)
        self.call = quick_jit(lambda model, *args: model(*args))
        self.sums = quick_jit(lambda model, *args: model.loss_sums(*args))

    def _vocab_of_call(self) -> int | None:
        """Return the vocabulary size of `model(state, tokens, reset)`, or None if that fails."""
        try:
            state, tokens = self.model.initial_state(BATCH), jnp.zeros((BATCH, TIME), jnp.int32)
            reset = jnp.zeros((BATCH, TIME), bool)
            _, out = jax.eval_shape(lambda m, *args: m(*args), self.model, state, tokens, reset)
            shape = out.logits.shape
        except Exception:  # another signature: the promises about sequences do not apply
            return None
        return shape[2] if shape[:2] == (BATCH, TIME) else None

    def logits(self, state, tokens, reset=None):
        """Return (state, logits) as NumPy arrays."""
        reset = np.zeros(tokens.shape, bool) if reset is None else reset
        state, out = self.call(self.model, state, tokens, reset)
        return jax.device_get((state, out.logits))

    @functools.cached_property
    def warm(self):
        """State and logits after the batch, for a state other than the initial one."""
        return self.logits(self.model.initial_state(BATCH), self.tokens)

    def key(self):
        """Return one key, or one per row for models with `draws_by_row`."""
        key = jax.random.key(0)
        return jax.random.split(key, BATCH) if self.traits.draws_by_row else key


def _float32(lab):
    state = lab.model.initial_state(BATCH)
    after, _ = jax.eval_shape(lambda m, *a: m.loss_sums(*a), lab.model, state, lab.batch, lab.key())
    for what, tree in (("parameter", lab.model), ("state", state), ("state after", after)):
        for name, leaf in flatten(tree, ".").items():
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            allowed = (lab.traits.stored_dtype if what == "parameter" else "float32", "float32")
            need(not floating or str(leaf.dtype) in allowed, f"{what} {name} is {leaf.dtype}")
            first = what == "parameter" or leaf.shape[:1] == (BATCH,)
            need(first, f"{what} {name} has shape {leaf.shape}, should start with batch={BATCH}")
    describe = functools.partial(jax.tree.map, lambda x: (x.shape, str(x.dtype)))
    need(describe(state) == describe(after), "loss_sums returns a state unlike initial_state")
    return f"{sum(x.size for x in jax.tree.leaves(lab.model))} parameters"


def _terms(lab):
    counts = jax.device_get(target_counts(lab.model, lab.batch))
    terms = [term.name for term in lab.model.terms]
    need(len(set(terms)) == len(terms), f"two terms have one name: {terms}")
    need(loss_names(lab.model), "no term has a weight: nothing to learn")
    state = lab.model.initial_state(BATCH)
    for how, key in (("training", lab.key()), ("evaluation", None)):
        _, sums = jax.device_get(lab.sums(lab.model, state, lab.batch, key))
        need(set(sums) == set(terms), f"{how}: sums {sorted(sums)}, terms {sorted(terms)}")
        for name, value in sums.items():
            need(value.shape == () and value.dtype == np.float32, f"{name} is no float32 scalar")
            need(np.isfinite(value), f"{name} is {value} in {how}")
    for name, value in counts.items():
        need(value.shape == () and value >= 0, f"count of {name} is {value}")
    for progress in (0.0, 0.5, 1.0):
        for name, weight in loss_weights(lab.model, jnp.float32(progress)).items():
            good = weight.shape == () and weight.dtype == jnp.float32 and weight >= 0
            need(good, f"weight of {name} is {weight!r} at progress {progress}")
    return ", ".join(f"{name} of {counts[name]:g}" for name in terms)


def _padding(lab):
    """Check that targets of weight 0 have no effect."""
    hidden = lab.batch["weights"] == 0
    other = lab.batch | {"targets": np.where(hidden, 0, lab.batch["targets"])}
    state = lab.model.initial_state(BATCH)
    once, twice = (lab.sums(lab.model, state, x, lab.key())[1] for x in (lab.batch, other))
    changed = [name for name in once if once[name] != twice[name]]
    need(not changed, f"targets of weight 0 change {', '.join(changed)}")
    empty = target_counts(lab.model, lab.batch | {"weights": np.zeros_like(lab.batch["weights"])})
    main = main_term(lab.model)
    need(empty[main] == 0, f"{main} counts {empty[main]:g} targets in a batch without any")
    return f"{int(hidden.sum())} targets of weight 0 change nothing"


def _gradients(lab):
    if lab.traits.local_update:
        return "learns without backpropagation"

    def loss(model, state, batch, key):
        sums = model.loss_sums(state, batch, key, jnp.float32(1.0))[1]
        counts = target_counts(model, batch)
        weights = loss_weights(model, jnp.float32(1.0))
        return sum(w * sums[name] / jnp.maximum(counts[name], 1.0) for name, w in weights.items())

    state = lab.model.initial_state(BATCH)
    grads = quick_jit(jax.grad(loss))(lab.model, state, lab.batch, lab.key())
    return gradients_of_all(jax.device_get(grads), lab.frozen)


def _of_sequences(check):
    """Restrict a promise to left-to-right language models."""
    return lambda lab: check(lab) if lab.is_sequential else "not a left-to-right language model"


def _step(lab):
    if not lab.traits.step:
        return "no step"
    step, state, logits = quick_jit(lambda m, *args: m.step(*args)), lab.warm[0], []
    for t in range(TIME):
        state, out = step(lab.model, state, lab.tokens[:, t])
        logits.append(out.logits)
    last, want = lab.logits(lab.warm[0], lab.tokens)
    got = jax.device_get((state, jnp.stack(logits, 1)))
    return compare([("state", got[0], last), ("logits", got[1], want)], VALUES)


def _handoff(lab):
    last, whole = lab.logits(lab.warm[0], lab.tokens)
    half, first = lab.logits(lab.warm[0], lab.tokens[:, :CUT])
    end, second = lab.logits(half, lab.tokens[:, CUT:])
    both = np.concatenate([first, second], 1)
    return compare([("logits", both, whole), ("state", end, last)], VALUES)


def _reset(lab):
    """Check that logits after a reset equal a fresh start, even if the previous state is NaN."""
    reset = lab.no_reset.copy()
    reset[:, CUT] = True
    fresh = lab.model.initial_state(BATCH)
    _, want = lab.logits(fresh, lab.tokens[:, CUT:])
    _, got = lab.logits(lab.warm[0], lab.tokens, reset)
    _, after_none = lab.logits(lab.warm[0], lab.tokens)
    ignored = np.array_equal(got[:, CUT:], after_none[:, CUT:])
    need(not ignored or not jax.tree.leaves(fresh), "reset changes nothing")
    reset[:, 0] = True
    nan = jax.tree.map(meaningless, lab.warm[0])
    _, clean = lab.logits(nan, lab.tokens, reset)
    pairs = [("after the reset", got[:, CUT:], want), ("after NaN", clean[:, CUT:], want)]
    return compare(pairs, VALUES)


def _causality(lab):
    """Check bit-exact causality with one compiled function."""
    _, want = lab.logits(lab.warm[0], lab.tokens)
    for at in (1, CUT, TIME - 1):
        tokens = lab.tokens.copy()
        tokens[:, at:] = tokens[:, at:][:, ::-1] - 1
        _, got = lab.logits(lab.warm[0], tokens)
        early = np.flatnonzero((got != want)[:, :at].any((0, 2)))
        need(not early.size, f"tokens from {at} on change the logits of token {early[:1]}")
        need((got != want)[:, at:].any(), f"tokens from {at} on change nothing")
    return "bit-identical before a change"


def _rows(lab):
    _, want = lab.logits(lab.warm[0], lab.tokens)
    tokens = lab.tokens.copy()
    tokens[1:] = tokens[1:, ::-1] - 1
    _, got = lab.logits(lab.warm[0], tokens)
    need(same_bits(got[0], want[0]), "row 0 changes with the other rows of the batch")
    return "bit-identical whatever the other rows hold"


def _ragged(lab):
    """Check rows padded right, left and with holes: a full one, an empty one, and one between."""
    if "lengths" not in inspect.signature(inspect.unwrap(type(lab.model).__call__)).parameters:
        return "takes no lengths: hold is refused"
    lengths = np.array([TIME, 0, CUT], np.int32)
    state, reset = jax.device_get(lab.warm[0]), lab.batch["reset"]
    weights = np.random.default_rng(1).standard_normal((BATCH, TIME), np.float32)

    def run(model, state, tokens, reset, hold, weights):
        def loss(model):
            last, out = model(state, tokens, reset, hold=hold)
            real = jnp.where(hold, 0.0, weights)[..., None]
            return jnp.sum(real * jnp.sin(out.logits)), (last, out.logits)

        if lab.traits.local_update:
            return (), *loss(model)[1]
        grads, (last, logits) = jax.grad(loss, has_aux=True)(model)
        return grads, last, logits

    run, results = quick_jit(run), {}
    for name, layout in layouts(lengths, TIME).items():
        ids, restarts = layout.spread(lab.tokens, -100), layout.spread(reset, True)
        places = restarts, layout.hold, layout.spread(weights, np.nan)
        grads, last, logits = jax.device_get(run(lab.model, state, ids, *places))
        results[name] = grads, last, layout.collect(logits)
    for name in ("left", "holes"):
        same = same_bits(results[name], results["right"])
        need(same, f"logits, state or gradients of {name} differ from those padded right")
    grads, last, logits = results["right"]
    gradients_of_all(grads, tuple(flatten(grads, ".")))  # finite
    kept = jax.tree.map(lambda x: x[1], (last, state))
    need(same_bits(*kept), "a row without a token changes its state")
    whole, want = lab.logits(state, lab.tokens, reset)
    ended, part = lab.logits(state, lab.tokens[:, :CUT], reset[:, :CUT])
    pairs = [("full row, logits", logits[0], want[0]), ("short row", logits[2, :CUT], part[2])]
    for name, row, alone in (("full", 0, whole), ("short", 2, ended)):
        states = (jax.tree.map(lambda x, row=row: x[row], tree) for tree in (last, alone))
        pairs.append((f"{name} row, state", *states))
    step = quick_jit(lambda model, state, token, hold: model.step(state, token, hold=hold))
    if lab.traits.step:
        hold = np.array([True, True, False])
        after, out = jax.device_get(step(lab.model, state, lab.tokens[:, 0], hold))
        kept = jax.tree.map(lambda x: x[hold], (after, state))
        need(same_bits(*kept), "step changes the state of a held row")
        need(not out.logits[hold].any(), "step gives logits to a held row")
    return f"right, left, holes: bit-identical; to rows alone: {compare(pairs, VALUES)}"


def _config(lab):
    if (config := getattr(lab.model, "config", None)) is None:
        return "no config"
    if not any(type(config) is entry[0] for entry in jaxmodels.MODELS.values()):
        return f"{type(config).__name__} is not in MODELS"
    text = jaxmodels.config_to_json(config)
    need(jaxmodels.config_from_json(text) == config, "JSON gives another config")
    return f"{len(dataclasses.fields(config))} fields"


def _abilities(lab):
    if lab.traits.parameter_label:
        labels = {name: lab.traits.parameter_label(name) for name in flatten(lab.model)}
        for name, label in labels.items():
            parts = label.split("/")
            need(len(parts) == 2 and all(parts), f"label of {name} is {label!r}")
    if lab.traits.trace:
        arrays = quick_jit(lambda m, tokens: m.trace(tokens))(lab.model, lab.tokens[0])
        for name, array in jax.device_get(arrays).items():
            need(array.shape[0] in (TIME, TIME - 1), f"trace {name} has shape {array.shape}")
            need(np.isfinite(array).all(), f"trace {name} is not finite")
    present = [f.name for f in dataclasses.fields(Traits) if getattr(lab.traits, f.name)]
    return ", ".join(name for name in present if name != "main_term") or "none"


PROMISES = {
    "parameters and state: float32": _float32,
    "terms: one name, sum, count": _terms,
    "targets of weight 0": _padding,
    "every parameter has a gradient": _gradients,
    "step == call": _of_sequences(_step),
    "handoff f(A+B) == f(A); f(B)": _of_sequences(_handoff),
    "reset == fresh start": _of_sequences(_reset),
    "causality": _of_sequences(_causality),
    "rows are independent": _of_sequences(_rows),
    "hold: right == left == holes": _of_sequences(_ragged),
    "traits": _abilities,
    "config as JSON": _config,
}
