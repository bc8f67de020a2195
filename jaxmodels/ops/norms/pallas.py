"""Norms over the last axis as Pallas TPU kernels that read and write each array once.

    layer_norm:      (x - mean) / sqrt(variance + eps) scale + bias
    gated_rms_norm:  u / sqrt(mean(u^2) + eps) scale ,  u = y silu(z)

Shapes: M tokens, D channels in G groups; a block is as many tokens as fit into VMEM.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxmodels.ops.common.pallas_tpu import (
    LANES,
    SUBLANES,
    float32_array,
    kernel_call,
    select_matmul,
    sum_row_groups,
)
from jaxmodels.ops.common.varying import cast_alike

ENTRIES = 2**17  # size limit of a block: about ten are in VMEM
ROWS = 16  # bfloat16 rows per register


def layer_norm(x, scale, bias, eps=1e-5):
    """Apply LayerNorm to x (..., D) float32; scale, bias (D,)."""
    arrays = cast_alike((x.reshape(-1, x.shape[-1]),), (scale, bias))
    y = _run(("layer_norm", eps, 1, jnp.dtype("float32")), *arrays)
    return y.reshape(x.shape)


def gated_rms_norm(y, z, scale, eps=1e-5, groups=1, dtype="float32"):
    """Apply RMSNorm to y silu(z), float32 (..., D), scale (D,), and round the result to `dtype`.

    groups: parts of D that are normalized separately, see `supports_groups`.
    """
    flat = tuple(x.reshape(-1, x.shape[-1]) for x in (y, z))
    arrays = cast_alike(flat, (scale,))
    return _run(("gated_norm", eps, groups, jnp.dtype(dtype)), *arrays).reshape(y.shape)


def supports_groups(width: int, groups: int) -> bool:
    """Whether the parts of `width` channels fill registers, or registers hold whole parts."""
    size, lanes = width // groups, min(LANES, width)
    return groups == 1 or size % LANES == 0 or lanes % size == width % lanes == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(kind, tokens, vectors):
    """Run kernel kind = (name, eps, G, result dtype) on tokens (M, D) and vectors (D,)."""
    return _forward(kind, tokens, vectors)[0]


def _forward(kind, tokens, vectors):
    name, eps, groups, dtype = kind
    padded, block, vector = _prepare(*tokens)
    out = kernel_call(
        functools.partial(BODIES[name][0], eps, groups),
        f"{name}_forward",
        grid=(padded[0].shape[0] // block.block_shape[0],),
        in_specs=[block] * len(tokens) + [vector] * len(vectors),
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct(padded[0].shape, dtype),
        semantics=("parallel",),
    )(*padded, *(x[None] for x in vectors))
    return out[: tokens[0].shape[0]], (tokens, vectors)


def _backward(kind, saved, g):
    name, eps, groups, _ = kind
    tokens, vectors = saved
    padded, block, vector = _prepare(*tokens, g)
    count, width = tokens[0].shape
    sums = pl.BlockSpec((SUBLANES, width), lambda t: (0, 0))
    out = kernel_call(
        functools.partial(BODIES[name][1], eps, groups),
        f"{name}_backward",
        grid=(padded[0].shape[0] // block.block_shape[0],),
        in_specs=[block] * len(padded) + [vector] * len(vectors),
        out_specs=[block] * len(tokens) + [sums] * len(vectors),
        out_shape=[float32_array(*padded[0].shape)] * len(tokens)
        + [float32_array(SUBLANES, width)] * len(vectors),
        semantics=("arbitrary",),
    )(*padded, *(x[None] for x in vectors))
    d_tokens = tuple(x[:count] for x in out[: len(tokens)])
    return d_tokens, tuple(x.sum(0) for x in out[len(tokens) :])


_run.defvjp(_forward, _backward)


def _prepare(*arrays):
    """Return the arrays (M, D) padded to whole blocks, and the specs of these and of vectors."""
    tokens, width = arrays[0].shape
    rows = max(ENTRIES // width // ROWS * ROWS, ROWS)
    rows = min(rows, -(-tokens // ROWS) * ROWS)
    arrays = [jnp.pad(x, [(0, -tokens % rows), (0, 0)]) for x in arrays]
    block = pl.BlockSpec((rows, width), lambda t: (t, 0))
    return arrays, block, pl.BlockSpec((1, width), lambda t: (0, 0))


def _mean(x, groups=1, exact=True):
    """Average x (rows, D) over each group, broadcastable to x."""
    width = x.shape[1]
    size = width // groups
    if groups == 1:
        return jnp.mean(x, 1, keepdims=True)
    if size % LANES == 0:
        parts = [x[:, at : at + size] for at in range(0, width, size)]
        means = [jnp.broadcast_to(jnp.mean(part, 1, keepdims=True), part.shape) for part in parts]
        return jnp.concatenate(means, 1)
    # Registers below each other are one factor of a matmul with ones for a group's own channels.
    lanes = min(LANES, width)
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (lanes, lanes), axis) for axis in (0, 1))
    own = (row // size == column // size).astype(jnp.float32)
    starts = range(0, width, lanes)
    below = jnp.concatenate([x[:, at : at + lanes] for at in starts])
    sums = select_matmul(exact, 3, "right", own, below) / size
    rows = x.shape[0]
    return jnp.concatenate([sums[i * rows : (i + 1) * rows] for i in range(len(starts))], 1)


def _layer_norm(x, eps):
    """Return normalized x and 1 / standard deviation."""
    x = x - _mean(x)
    inverse = jax.lax.rsqrt(_mean(x * x) + eps)
    return x * inverse, inverse


def _layer_norm_forward(eps, groups, x, scale, bias, out, *, exact):
    out[...] = _layer_norm(x[...], eps)[0] * scale[...] + bias[...]


def _layer_norm_backward(eps, groups, x, g, scale, bias, d_x, d_scale, d_bias, *, exact):
    _clear(d_scale, d_bias)
    g = g[...]
    normed, inverse = _layer_norm(x[...], eps)
    d_scale[...] += sum_row_groups(g * normed)
    d_bias[...] += sum_row_groups(g)
    g = g * scale[...]
    d_x[...] = inverse * (g - _mean(g) - normed * _mean(g * normed))


def _gated(y, z, eps, mean):
    """Return u = y silu(z), silu(z), 1 + exp(-z), and 1 / root mean square of u."""
    below = 1.0 + jnp.exp(-z)
    gate = z / below
    u = y * gate
    return u, gate, below, jax.lax.rsqrt(mean(u * u) + eps)


def _gated_norm_forward(eps, groups, y, z, scale, out, *, exact):
    mean = functools.partial(_mean, groups=groups, exact=exact)
    u, _, _, inverse = _gated(y[...], z[...], eps, mean)
    out[...] = (u * inverse * scale[...]).astype(out.dtype)


def _gated_norm_backward(eps, groups, y, z, g, scale, d_y, d_z, d_scale, *, exact):
    _clear(d_scale)
    z, g = z[...], g[...].astype(jnp.float32)
    mean = functools.partial(_mean, groups=groups, exact=exact)
    u, gate, below, inverse = _gated(y[...], z, eps, mean)
    normed = u * inverse
    d_scale[...] += sum_row_groups(g * normed)
    g = g * scale[...]
    d_u = inverse * (g - normed * mean(g * normed))
    d_y[...] = d_u * gate
    d_z[...] = d_u * y[...] * (1.0 + z * (1.0 - 1.0 / below)) / below


def _clear(*sums):
    @pl.when(pl.program_id(0) == 0)
    def _():
        for ref in sums:
            ref[...] = jnp.zeros_like(ref)


BODIES = {
    "layer_norm": (_layer_norm_forward, _layer_norm_backward),
    "gated_norm": (_gated_norm_forward, _gated_norm_backward),
}
