"""Adaptive computation time (ACT) for HRLM: halting, its losses, and inference.

As in HRM (SYSTEMS 7.7; arXiv 2506.21734): a training step is one ACT step for every row; a row
whose sample has halted takes a new one. Works on a `models.hrlm.model.HRLM`.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.models.contract import Term, num_targets
from jaxmodels.ops import losses


def answer_losses(logits, targets, weights, loss: str):
    """What each row's answer is worth.

    Args:
      logits: (B, T, V); targets int, weights float (B, T), 0 where there is no label.
      loss: "softmax" or "stablemax".

    Returns:
      (B,) each: the sum of -log p over the row's labels, their number, how many are right, and
      whether all are.
    """
    if loss == "stablemax":
        logits = losses.log_stablemax(logits)
    paid = jax.vmap(losses.cross_entropy_sum)(logits, targets, weights)
    labelled = weights > 0
    right = (jnp.argmax(logits, -1) == targets) & labelled
    return paid, weights.sum(-1), right.sum(-1), (right == labelled).all(-1) & labelled.any(-1)


def binary_cross_entropy(logits, targets):
    """-log p of targets in [0, 1] under sigma(logits), elementwise."""
    return jnp.maximum(logits, 0.0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


@struct.dataclass
class ACTStep:
    """What every row pays and how its sample fares in one ACT step, float32 (B,) each.

    Attributes:
      answer: loss of the answer: the sum over labels, or their mean if `loss_mean="sequence"`.
      exact: 1 where all labels are right.
      accuracy: share of the labels that are right.
      real: 1 where the row has a label; like the rest, None of a model that does not halt.
      halt, continue_: losses of the Q-head.
      steps: ACT steps of the sample so far.
      ended: 1 where the sample halts after this step.
    """

    answer: jax.Array
    exact: jax.Array
    accuracy: jax.Array
    real: jax.Array | None = None
    halt: jax.Array | None = None
    continue_: jax.Array | None = None
    steps: jax.Array | None = None
    ended: jax.Array | None = None


def terms(config) -> tuple[Term, ...]:
    """Losses and metrics of an HRLM; the weights are HRM's, 1 and a half for each Q-loss.

    "exact" and "accuracy" are over all rows. "steps" is the number of ACT steps that rows have had,
    "ended" the share of rows whose sample halts: in training a sample gets 1 / "ended" on average.
    """
    per = num_targets if config.loss_mean == "token" else num_rows
    found = [
        Term("answer", lambda out, batch: out.answer.sum(), per, weight=1.0),
        Term("exact", lambda out, batch: out.exact.sum(), num_rows),
        Term("accuracy", lambda out, batch: out.accuracy.sum(), num_rows),
    ]
    if config.halts:
        found += [_row_term("halt", "halt", 0.5), _row_term("steps"), _row_term("ended")]
        found += [_row_term("continue", "continue_", 0.5)] if config.q_continue else []
    return tuple(found)


def _row_term(name, field=None, weight=None):
    def total(out, batch):
        del batch  # a row may still work on the sample of an earlier batch
        return jnp.sum(out.real * getattr(out, field or name))

    return Term(name, total, num_rows, weight)


def num_rows(batch):
    """Count the rows with a label, a float32 scalar."""
    labels = batch["weights"].astype(jnp.float32)
    return jnp.sum((labels > 0).any(-1).astype(jnp.float32))


def run(model, state, batch, key=None, progress=None):
    """Run one ACT step for every row or, without a key, think every row of the batch to its end.

    Args:
      model: the HRLM.
      state: of `initial_state`, or from the step before.
      batch: inputs, targets int (B, T), weights float (B, T), and with puzzle_ids identifiers int
        (B,). Rows whose sample goes on ignore it.
      key: one, or one for each row (B,), from which that row's exploration is drawn. None: an
        evaluation (as `eval_halt` says); the state is returned as it came.
      progress: float in [0, 1] for `bp_warmup`; None means the end.

    Returns:
      (state, ACTStep).
    """
    weights = batch["weights"].astype(jnp.float32)
    if key is None:
        how = {"adaptive": model.config.eval_halt == "adaptive"}
        logits, steps, q = solve(
            model, batch["inputs"], identifiers=batch.get("identifiers"), **how
        )
        out = _answer(model, logits, batch["targets"], weights)
        return state, _halting(model, out, q, None, steps, jnp.ones_like(steps), weights)
    calls = calls_at(model.config, progress)
    if not model.config.halts:
        _, out = model(None, batch["inputs"], calls, batch.get("identifiers"))
        return state, _answer(model, out.logits, batch["targets"], weights)

    new, c = state.halted > 0, model.config
    fresh = model.initial_carry(*batch["inputs"].shape)

    def chosen(begun, going):
        return jnp.where(new.reshape((-1,) + (1,) * (begun.ndim - 1)), begun, going)

    thoughts = jax.tree.map(chosen, fresh, state.thoughts)
    inputs = chosen(batch["inputs"], state.inputs)
    targets = chosen(batch["targets"], state.targets)
    weights = chosen(weights, state.weights)
    identifiers = chosen(batch.get("identifiers", state.identifiers), state.identifiers)
    steps = jnp.where(new, 0.0, state.steps) + 1.0
    thoughts, out = model(thoughts, inputs, calls, identifiers)
    thoughts = jax.lax.stop_gradient(thoughts)
    answer = _answer(model, out.logits, targets, weights)

    last = steps >= c.halt_max_steps
    value = None
    if c.q_continue:
        _, ahead = model(thoughts, inputs, None, identifiers)
        best = jnp.where(last, ahead.q_halt, jnp.maximum(ahead.q_halt, ahead.q_continue))
        value = jax.lax.stop_gradient(jax.nn.sigmoid(best))
    halts = should_halt(c, out) & c.adaptive
    keys = key if key.ndim else jax.random.split(key, steps.shape[0])
    explores, least = jax.vmap(lambda key: _exploration(c, key))(keys)
    halted = (last | halts) & (~explores | (steps >= least) | last)
    halted = halted.astype(jnp.float32)
    q = (out.q_halt, out.q_continue)
    after = state.replace(
        thoughts=thoughts,
        steps=steps,
        halted=halted,
        inputs=inputs,
        targets=targets,
        weights=weights,
        identifiers=identifiers,
    )
    return after, _halting(model, answer, q, value, steps, halted, weights)


def _exploration(config, key):
    """-> (whether a row explores, rounds it then thinks at least: 2 to all)."""
    explore, least = jax.random.split(key)
    explores = jax.random.uniform(explore) < config.halt_exploration
    return explores, jax.random.randint(least, (), 2, config.halt_max_steps + 1)


def should_halt(config, out):
    """bool (B,): halting is worth more than going on; without `q_continue`, than even odds."""
    return out.q_halt > (out.q_continue if config.q_continue else 0.0)


def calls_at(config, progress):
    """Through how many calls the gradient flows: from 2 to `grad_calls` over `bp_warmup`."""
    if not config.bp_warmup or progress is None:
        return None
    ramp = 2.0 + (config.grad_calls - 2) * jnp.minimum(progress / config.bp_warmup, 1.0)
    return ramp.astype(jnp.int32)


def _answer(model, logits, targets, weights) -> ACTStep:
    paid, count, right, exact = answer_losses(logits, targets, weights, model.config.loss)
    per_row = jnp.maximum(count, 1.0)
    exact = exact.astype(jnp.float32)
    answer = paid if model.config.loss_mean == "token" else paid / per_row
    return ACTStep(answer, exact, right / per_row)


def _halting(model, out, q, value, steps, ended, weights) -> ACTStep:
    """Add what the Q-head pays: its targets are whether the answer is right, and `value`."""
    c = model.config
    if not c.halts:
        return out
    real = (weights > 0).any(-1).astype(jnp.float32)
    halt = binary_cross_entropy(q[0], out.exact)
    out = out.replace(real=real, halt=halt, steps=steps, ended=ended)
    if not c.q_continue:
        return out
    value = jax.nn.sigmoid(q[1]) if value is None else value  # an evaluation does not look ahead
    return out.replace(continue_=binary_cross_entropy(q[1], value))


def solve(model, tokens, *, adaptive=False, max_steps=None, identifiers=None):
    """Thinks until every row has halted.

    Args:
      tokens: int (B, T).
      adaptive: a row halts when its Q-head says so; else after `max_steps` rounds. What a row
        answers does not depend on the rows beside it, nor on how long those think.
      max_steps: rounds at most; None means the config's.
      identifiers: int (B,) of the puzzles, or None.

    Returns:
      (logits (B, T, V) of the round in which each row halted, rounds (B,) float32, (q_halt,
      q_continue) of that round).
    """
    c = model.config
    most = max_steps or c.halt_max_steps
    if not c.halts and most == 1:
        _, out = model(None, tokens, None, identifiers)
        rounds = jnp.ones(tokens.shape[:1])
        return out.logits, rounds, (out.q_halt, out.q_continue)

    def body(carry):
        thoughts, kept, done, rounds, count = carry
        thoughts, out = model(thoughts, tokens, None, identifiers)
        count = count + 1

        def unless_done(now, before):
            return jnp.where(done.reshape((-1,) + (1,) * (now.ndim - 1)), before, now)

        kept = jax.tree.map(unless_done, out, kept)
        rounds = jnp.where(done, rounds, count.astype(jnp.float32))
        if adaptive:
            done = done | should_halt(c, out)
        return thoughts, kept, done, rounds, count

    def goes_on(carry):
        _, _, done, _, count = carry
        return (count < most) & ~done.all()

    thoughts = model.initial_carry(*tokens.shape)
    shapes = jax.eval_shape(lambda: model(thoughts, tokens, None, identifiers)[1])
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    rows = jnp.zeros(tokens.shape[:1])
    start = (thoughts, nothing, rows > 0, rows, jnp.int32(0))
    _, kept, _, rounds, _ = jax.lax.while_loop(goes_on, body, start)
    return kept.logits, rounds, (kept.q_halt, kept.q_continue)
