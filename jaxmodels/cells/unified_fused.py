"""Fused implementation of the unified cell, algebraically equal to `UnifiedCell.scan`.

* A LayerNorm before a matrix is folded into it: centring and scale are applied to the weights once
  per call, and only the reciprocal standard deviation remains in the loop. The input's part of the
  matmul and of the statistics is computed for all tokens before the loop.
* Matrices that multiply the same vector (h_mid, the context) are concatenated; except the
  relations' large one, because splitting the result would copy it.
* Only the mean over roles of the relation tensor is read, so the loop carries that mean (B, S, R);
  the tensor, an exponential average with a constant ratio, is computed after the loop.
* Weight gradients are formed several steps at a time (`ops/common/deferred_weight_grads.py`).

Shapes as in `unified.py`; time comes first inside the loop.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmodels.cells.base import where_reset
from jaxmodels.cells.layers import dot as dot_in
from jaxmodels.errors import UserError
from jaxmodels.ops.common.chunks import remat_over_time
from jaxmodels.ops.common.deferred_weight_grads import deferred_scan
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.ragged import hold_after, keep_held

EPS = 1e-5


def _centre(kernel, groups=1):
    """Subtract the mean over each group of outputs, so that LayerNorm's centring is implied."""
    shaped = kernel.reshape(*kernel.shape[:-1], groups, -1)
    return (shaped - shaped.mean(-1, keepdims=True)).reshape(kernel.shape)


def _fold(norm, linear):
    """Return weights and bias that compute `linear(norm(z))` from z / std(z)."""
    kernel = linear.kernel[...]
    scaled = norm.scale[...][:, None] * kernel
    bias = jnp.dot(norm.bias[...], kernel, precision=EXACT) + linear.bias[...]
    return scaled - scaled.mean(0, keepdims=True), bias


def _fold_cell(cell):
    """Return (weights of the loop's matmuls, biases, input weights (width, 3D))."""
    c = cell.config
    width, hidden = c.width, c.hidden_size
    slots = c.symbol_slots
    project, project_bias = _fold(cell.rwkv.norm, cell.rwkv.project)
    bind, mask = cell.bind.bind, cell.bind.mask
    weights = {"h": project[width:], "bind": _centre(bind.kernel[...], slots * c.role_slots)}
    small = {"project": project_bias}
    from_mid, from_context = [_centre(mask.kernel[...], slots)], []
    small["bind"] = _centre(bind.bias[...], slots * c.role_slots)
    small["mask"] = _centre(mask.bias[...], slots)
    for level, layer in enumerate(cell.reduce.layers):
        kernel, small[f"update{level}"] = _fold(layer.norm_in, layer.update)
        below = kernel.shape[0] - layer.norm_out.scale[...].shape[0]
        lower, weights[f"own{level}"] = kernel[:below], kernel[below:]
        parts = [lower]
        if layer.upper is not None:
            upper = layer.upper.kernel[...]
            parts.append(upper[:below])
            weights[f"up{level}"] = upper[below:]
            small[f"upper{level}"] = layer.upper.bias[...]
        if level == 0:
            from_mid += [part[:hidden] for part in parts]
            from_context += [part[hidden:] for part in parts]
        else:
            weights[f"lower{level}"] = jnp.concatenate(parts, 1)
    if c.topdown:
        for level, linear in enumerate(cell.reduce.topdown, start=1):
            weights[f"down{level}"] = linear.kernel[...]
    if c.pooling == "attention":
        weights["query"] = cell.reduce.query.kernel[...]
    weights["mid"] = jnp.concatenate(from_mid, 1)
    weights["context"] = jnp.concatenate(from_context, 1)
    weights = {name: weight.astype(c.dtype) for name, weight in weights.items()}
    return weights, small, project[:width]


def _moments(x):
    mean = x.mean(-1, keepdims=True)
    return mean, jnp.sum(jnp.square(x - mean), -1, keepdims=True)


def _inverse_std(first, first_size, second, second_size):
    """Return 1/std of two concatenated vectors, given (mean, sum of squared deviations) each."""
    size = first_size + second_size
    shift = jnp.square(first[0] - second[0]) * (first_size * second_size / size)
    return jax.lax.rsqrt((first[1] + second[1] + shift) / size + EPS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _slot_means(centred, sizes):
    """Divide each (slot, role) vector by its root mean square and average over roles.

    centred: (B, S*K*R) -> (B, S, R); sizes: (S, K, R). The custom backward pass stores only
    `centred`; the default one would store three arrays of that size per token.
    """
    return _slot_means_fwd(centred, sizes)[0]


def _slot_means_fwd(centred, sizes):
    shaped = centred.reshape(-1, *sizes)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(shaped), -1, keepdims=True) + EPS)
    return (shaped * inverse).mean(-2), centred


def _slot_means_bwd(sizes, centred, g):
    shaped = centred.reshape(-1, *sizes)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(shaped), -1, keepdims=True) + EPS)
    unit = shaped * inverse
    g = g[:, :, None, :] / sizes[1]
    d = inverse * (g - unit * jnp.mean(g * unit, -1, keepdims=True))
    return (d.reshape(centred.shape),)


_slot_means.defvjp(_slot_means_fwd, _slot_means_bwd)


def _step(debug, dot, params, carry, x):
    """Run one token; carry: h, time_state, wkv, slots (B, S, R), mask, abstractions."""
    cell, small = params
    c = cell.config
    projected, moments, reset, real = x
    if reset is not None:
        carry = where_reset(reset, _carry(cell.initial_state(reset.shape[0])), carry)
    before = h, time_state, wkv, slots, mask, abstractions = carry
    hidden, mask_size = c.hidden_size, c.symbol_slots**2

    inverse = _inverse_std(moments, c.width, _moments(h), hidden)
    projected = (projected + dot("h", h)) * inverse + small["project"][None]
    h_mid, time_state, wkv = cell.rwkv.gate(projected, h, time_state, wkv)

    bind = dot("bind", h_mid) + small["bind"][None]
    logits, from_lower = jnp.split(dot("mid", h_mid), (mask_size,), -1)
    norm = cell.bind.relation_norm
    ratio = jax.nn.sigmoid(cell.bind.relation_logit[...])
    new = (
        _slot_means(bind, (c.symbol_slots, c.role_slots, c.relation_size))
        * norm.scale[...][None, None]
        + norm.bias[...][None, None]
    )
    slots = ratio * new + (1.0 - ratio) * slots

    logits = (logits + small["mask"][None]).reshape(mask.shape)
    spread = jax.lax.rsqrt(jnp.mean(jnp.square(logits), -1, keepdims=True) + EPS)
    norm = cell.bind.mask_norm
    logits = logits * spread * norm.scale[...][None, None] + norm.bias[...][None, None]
    mask = cell.bind.blend_mask(logits, mask)

    query = dot("query", h_mid) if c.pooling == "attention" else None
    context = cell.reduce.context(slots, mask, query)
    from_lower = from_lower + dot("context", context)
    lower_size = hidden + c.relation_size
    lower = _moments(jnp.concatenate([h_mid, context], -1))
    updated, inner = [], {}
    for level, (layer, a) in enumerate(zip(cell.reduce.layers, abstractions, strict=True)):
        size = a.shape[-1]
        inverse = _inverse_std(lower, lower_size, _moments(a), size)
        gates, summary = jnp.split(from_lower, (3 * size,), -1)
        gates = (gates + dot(f"own{level}", a)) * inverse
        gates = gates + small[f"update{level}"][None]
        update = layer.gate(gates, a)
        updated.append(layer.norm_out(update))
        inner[f"gates{level}"], inner[f"update{level}"] = gates, update
        if layer.upper is not None:
            summary = summary + dot(f"up{level}", update)
            summary = summary + small[f"upper{level}"][None]
            lower, lower_size = _moments(summary), size
            if level + 1 < len(abstractions):
                from_lower = dot(f"lower{level + 1}", summary)
    h = updated[0]
    if c.topdown:
        feedback = (dot(f"down{i}", a) for i, a in enumerate(updated[1:], start=1))
        h = cell.reduce.norm_h(sum(feedback, start=h))
    updated = tuple(updated)
    inner |= {"projected": projected, "h_mid": h_mid, "context": context, "mask_logits": logits}
    carry = (h, time_state, wkv, slots, mask, updated)
    carry = carry if real is None else keep_held(~real, before, carry)
    return carry, (h, updated, mask, inner if debug else {})


def _carry(state):
    slots = state.relations.mean(2)
    return state.h, state.time_state, state.wkv, slots, state.causal_mask, state.abstractions


def _relations(cell, before, binds, reset, real, every):
    """Return the relation tensor after every `every` tokens, (T // every, B, S, K, R).

    Each is the previous one times (1-ratio)^every, plus the sum of ratio * (1-ratio)^age * new over
    the tokens since. Tokens of finished documents are masked by selection, because they may be NaN.

    Args:
      cell: the `UnifiedCell`.
      before: (B, S, K, R), the tensor before the first token.
      binds: (T, B, S*K*R), the centred projections; T a multiple of `every`.
      reset: bool (T, B) or None.
      real: bool (T, B) or None; False for padding.
      every: int.
    """
    time, batch, _ = binds.shape
    count = time // every
    shaped = binds.reshape(count, every, batch, *before.shape[1:])
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(shaped), -1) + EPS)
    logit = cell.bind.relation_logit[...]
    log_keep = -jax.nn.softplus(logit)
    reads = jnp.ones((count, every, batch), bool)
    continues = jnp.ones((count, batch), bool)
    age, tokens = jnp.arange(every - 1, -1, -1)[None, :, None], jnp.full((count, batch), every)
    if real is not None:
        reads = real.reshape(reads.shape)
        age, tokens = _later(reads), reads.sum(1)
    if reset is not None:
        starts = reset.reshape(count, every, batch)
        reads, continues = reads & (_later(starts) == 0), ~starts.any(1)
    share = jax.nn.sigmoid(logit) * jnp.exp(age.astype(jnp.float32) * log_keep)
    each = (share[..., None, None] * inverse)[..., None] * shaped
    summed = jnp.sum(jnp.where(reads[..., None, None, None], each, 0.0), 1)
    total = jnp.sum(jnp.where(reads, share, 0.0), 1)
    scale = cell.bind.relation_norm.scale[...][None, None, None, None]
    bias = cell.bind.relation_norm.bias[...][None, None, None, None]
    new = summed * scale + total[:, :, None, None, None] * bias
    fade = jnp.exp(tokens.astype(jnp.float32) * log_keep)

    def add(relations, segment):
        new, continues, fade = segment
        kept = jnp.where(continues[:, None, None, None], fade[:, None, None, None] * relations, 0.0)
        return (relations := new + kept), relations

    return jax.lax.scan(add, before, (new, continues, fade))[1]


def _later(flags):
    """Return the number of True after each place along axis 1, int32."""
    flags = flags.astype(jnp.int32)
    return jnp.cumsum(flags[:, ::-1], 1)[:, ::-1] - flags


def _chunk(cell, folded, state, xs, reset, real, relations_every, debug):
    """Run xs (T, B, width), reset, real (T, B) -> (state, time-major readout, intermediates)."""
    weights, small, input_kernel = folded
    xs = xs.astype(jnp.float32)
    projected = dot_in(xs, input_kernel, cell.config.dtype)
    inputs = (projected, _moments(xs), reset, real)
    step, params = functools.partial(_step, debug), (cell, small)
    carry, (hs, abstractions, masks, inner), kept = deferred_scan(
        step, weights, params, _carry(state), inputs, keep=("bind",)
    )
    binds = kept["bind"] + small["bind"][None, None]
    h, time_state, wkv, _, mask, last = carry
    time = xs.shape[0]
    every = min(relations_every or time, time)
    whole = time - time % every
    tokens = (binds, reset, real)
    first, rest = (
        jax.tree.map(lambda x: x[:whole], tokens),
        jax.tree.map(lambda x: x[whole:], tokens),
    )
    relations = _relations(cell, state.relations, *first, every)
    latest = relations[-1]
    if whole < time:
        rest = jax.tree.map(lambda x: x[whole:], tokens)
        latest = _relations(cell, latest, *rest, time - whole)[-1]
    state = state.replace(
        h=h,
        time_state=time_state,
        wkv=wkv,
        relations=latest,
        causal_mask=mask,
        abstractions=last,
    )
    shown = relations[: time // relations_every] if relations_every else None
    readout = {"h": hs, "abstractions": abstractions, "causal_mask": masks, "relations": shown}
    return state, readout, inner


def unroll(cell, state, xs, reset, relations_every, debug=False, lengths=None):
    """See `UnifiedCell.unroll`; also return the intermediates, {} without `debug`."""
    folded = _fold_cell(cell)
    chunk = cell.config.remat_chunk
    time = xs.shape[1]
    real = None if lengths is None else ~hold_after(lengths, time)
    tokens = jax.tree.map(lambda x: x.swapaxes(0, 1), (xs, reset, real))
    if not chunk or time <= chunk:
        outputs = _chunk(cell, folded, state, *tokens, relations_every, debug)
        state, *seen = outputs
        return state, *jax.tree.map(lambda x: x.swapaxes(0, 1), seen)
    if relations_every and chunk % relations_every:
        raise UserError(
            f"remat_chunk={chunk} must be a multiple of relations_every={relations_every}"
        )

    def body(state, inputs):
        state, *seen = _chunk(cell, folded, state, *inputs, relations_every, debug)
        return state, seen

    state, seen = remat_over_time(body, state, tokens, chunk, time_axis=0)
    return state, *jax.tree.map(lambda x: x.swapaxes(0, 1), seen)
