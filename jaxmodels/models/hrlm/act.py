"""Adaptive computation time (ACT) for HRLM: halting, its losses, and inference.

As in HRM (arXiv 2506.21734), a training step is one ACT step for every row; a row whose sample has
halted takes a new sample. `model` is a `models.hrlm.model.HRLM` throughout.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.cells.base import where_reset
from jaxmodels.models.contract import Term, num_targets
from jaxmodels.ops import losses
from jaxmodels.ops.common.varying import cast_like


def answer_losses(logits, targets, weights, loss: str):
    """Score the answer of each row.

    Args:
      logits: (B, T, V).
      targets, weights: int and float (B, T); weight 0 where there is no label.
      loss: "softmax" or "stablemax".

    Returns:
      (summed -log p, number of labels, number correct, all correct), each (B,).
    """
    if loss == "stablemax":
        logits = losses.log_stablemax(logits)
    nll = jax.vmap(losses.cross_entropy_sum)(logits, targets, weights)
    labelled = weights > 0
    correct = (jnp.argmax(logits, -1) == targets) & labelled
    count, num_correct = weights.sum(-1), correct.sum(-1)
    return nll, count, num_correct, (correct == labelled).all(-1) & labelled.any(-1)


def binary_cross_entropy(logits, targets):
    """Return the cross-entropy in nats of targets in [0, 1] under sigmoid(logits), elementwise."""
    return jnp.maximum(logits, 0.0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def terms(config) -> tuple[Term, ...]:
    """Return losses and metrics of an HRLM, weighted as in HRM: 1, and 0.5 for each Q-loss.

    "steps" is the number of ACT steps that a row's sample has had, "ended" the fraction of rows
    whose sample halts; a sample gets 1 / "ended" ACT steps on average. `out` is the dict of sums of
    `run`, because a row may still work on a sample of an earlier batch.
    """
    count = num_targets if config.loss_mean == "token" else num_rows
    terms = [_term("answer", count, 1.0), _term("exact"), _term("accuracy")]
    if config.halts:
        terms += [_term("halt", weight=0.5), _term("steps"), _term("ended")]
        terms += [_term("continue", weight=0.5)] if config.q_continue else []
    return tuple(terms)


def num_rows(batch):
    """Return the number of rows with a label: float32 scalar."""
    labels = batch["weights"].astype(jnp.float32)
    return jnp.sum((labels > 0).any(-1).astype(jnp.float32))


def _term(name, count=num_rows, weight=None) -> Term:
    return Term(name, lambda sums, batch: sums[name], count, weight)


def run(model, state, batch, key=None, progress=None):
    """Run one ACT step for every row or, without a key, evaluate the batch until all rows halt.

    Args:
      model: an `HRLM`.
      state: `initial_state`, or the state after the previous step.
      batch: inputs, targets int (B, T), weights float (B, T), and with puzzle_ids identifiers int
        (B,). Rows whose sample has not halted ignore it.
      key: one key, or one per row (B,), for halting exploration. None: evaluation, which halts
        according to `eval_halt` and returns the state unchanged.
      progress: float in [0, 1] for `bp_warmup`; None means the end.

    Returns:
      (state, {term: float32 scalar, a sum over rows}).
    """
    weights = batch["weights"].astype(jnp.float32)
    if key is None:
        adaptive, identifiers = model.config.eval_halt == "adaptive", batch.get("identifiers")
        logits, steps, q = solve(model, batch["inputs"], adaptive=adaptive, identifiers=identifiers)
        sums, exact = _answer(model, logits, batch["targets"], weights)
        return state, sums | _halting(model, exact, q, None, steps, jnp.ones_like(steps), weights)
    calls = calls_at(model.config, progress)
    if not model.config.halts:
        _, out = model(None, batch["inputs"], calls, batch.get("identifiers"))
        return state, _answer(model, out.logits, batch["targets"], weights)[0]

    new, c = state.halted > 0, model.config
    select = functools.partial(where_reset, new)
    thoughts = select(model.initial_carry(*batch["inputs"].shape), state.thoughts)
    inputs = select(batch["inputs"], state.inputs)
    targets = select(batch["targets"], state.targets)
    weights = select(weights, state.weights)
    identifiers = select(batch.get("identifiers", state.identifiers), state.identifiers)
    steps = jnp.where(new, 0.0, state.steps) + 1.0
    thoughts, out = model(thoughts, inputs, calls, identifiers)
    thoughts = jax.lax.stop_gradient(thoughts)
    sums, exact = _answer(model, out.logits, targets, weights)

    last = steps >= c.halt_max_steps
    value = None
    if c.q_continue:
        _, following = model(thoughts, inputs, None, identifiers)
        best = jnp.maximum(following.q_halt, following.q_continue)
        value = jax.nn.sigmoid(jnp.where(last, following.q_halt, best))
        value = jax.lax.stop_gradient(value)
    halts = should_halt(c, out) & c.adaptive
    keys = key if key.ndim else jax.random.split(key, steps.shape[0])
    explores, least = jax.vmap(lambda key: _exploration(c, key))(keys)
    least = least.astype(jnp.float32)
    halted = ((last | halts) & (~explores | (steps >= least) | last)).astype(jnp.float32)
    sums |= _halting(model, exact, (out.q_halt, out.q_continue), value, steps, halted, weights)
    state = state.replace(
        thoughts=thoughts,
        steps=steps,
        halted=halted,
        inputs=inputs,
        targets=targets,
        weights=weights,
        identifiers=identifiers,
    )
    return state, sums


def _exploration(config, key):
    """Draw for one row (explores: bool, minimum ACT steps if it does: int32, 2 to the limit)."""
    explore, least = jax.random.split(key)
    explores = jax.random.uniform(explore, dtype=jnp.float32) < config.halt_exploration
    return explores, jax.random.randint(least, (), 2, config.halt_max_steps + 1, jnp.int32)


def should_halt(config, out, confidence=0.0):
    """Return bool (B,): q_halt exceeds q_continue, or 0 if the config has no `q_continue`.

    And sigmoid(q_halt), which estimates the probability that the answer is right, is at least
    `confidence`.
    """
    halts = out.q_halt > (out.q_continue if config.q_continue else 0.0)
    return halts & (jax.nn.sigmoid(out.q_halt) >= confidence)


def calls_at(config, progress):
    """Return the number of calls with a gradient: from 2 to `grad_calls` over `bp_warmup`."""
    if not config.bp_warmup or progress is None:
        return None
    ramp = 2.0 + (config.grad_calls - 2) * jnp.minimum(progress / config.bp_warmup, 1.0)
    return ramp.astype(jnp.int32)


def _answer(model, logits, targets, weights):
    """Return the sums over rows of the answer's terms, and the exact matches (B,) float32."""
    nll, count, correct, exact = answer_losses(logits, targets, weights, model.config.loss)
    per_row = jnp.maximum(count, 1.0)
    exact = exact.astype(jnp.float32)
    answer = nll.sum() if model.config.loss_mean == "token" else (nll / per_row).sum()
    accuracy = correct.astype(jnp.float32) / per_row
    return {"answer": answer, "exact": exact.sum(), "accuracy": accuracy.sum()}, exact


def _halting(model, exact, q, value, steps, halted, weights):
    """Return the sums of the halting terms; the Q-head's targets are `exact` and `value`."""
    c = model.config
    if not c.halts:
        return {}
    real = (weights > 0).any(-1).astype(jnp.float32)
    sums = {
        "halt": jnp.sum(real * binary_cross_entropy(q[0], exact)),
        "steps": jnp.sum(real * steps),
        "ended": jnp.sum(real * halted),
    }
    if c.q_continue:
        # Evaluation does not run the next step, so the target is the prediction itself.
        value = jax.nn.sigmoid(q[1]) if value is None else value
        sums["continue"] = jnp.sum(real * binary_cross_entropy(q[1], value))
    return sums


def solve(model, tokens, *, adaptive=False, max_steps=None, identifiers=None, confidence=None):
    """Run ACT steps until every row has halted.

    Args:
      model: an `HRLM`.
      tokens: int (B, T).
      adaptive: a row halts when `should_halt` is true, else after `max_steps`. The result of a row
        does not depend on the other rows of the batch.
      max_steps: limit of ACT steps; None means the config's.
      identifiers: puzzle ids, int (B,), or None.
      confidence: see `should_halt`; None means the config's `eval_confidence`.

    Returns:
      (logits (B, T, V), ACT steps (B,) float32, (q_halt, q_continue)), as of the step in which each
      row halted.
    """
    c = model.config
    limit = max_steps or c.halt_max_steps
    confidence = c.eval_confidence if confidence is None else confidence
    if not c.halts and limit == 1:
        _, out = model(None, tokens, None, identifiers)
        steps = jnp.ones(tokens.shape[:1], jnp.float32)
        return out.logits, steps, (out.q_halt, out.q_continue)

    def body(carry):
        thoughts, kept, done, steps, count = carry
        thoughts, out = model(thoughts, tokens, None, identifiers)
        count = count + 1
        kept = where_reset(done, kept, out)
        steps = jnp.where(done, steps, count.astype(jnp.float32))
        if adaptive:
            done = done | should_halt(c, out, confidence)
        return thoughts, kept, done, steps, count

    def unfinished(carry):
        _, _, done, _, count = carry
        return (count < limit) & ~done.all()

    thoughts = model.initial_carry(*tokens.shape)
    shapes = jax.eval_shape(lambda: model(thoughts, tokens, None, identifiers)[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    rows = jnp.zeros(tokens.shape[:1], jnp.float32)
    start = cast_like((thoughts, zeros, rows > 0, rows), tokens, model)
    start = (*start, jnp.int32(0))
    _, kept, _, steps, _ = jax.lax.while_loop(unfinished, body, start)
    return kept.logits, steps, (kept.q_halt, kept.q_continue)
