"""`lax.scan` with weight gradients accumulated over several steps at a time.

The backward pass of a plain scan reads and writes every weight gradient at every step, for a matmul
with only batch-many rows. Here it collects the cotangents of `chunk` steps and then does one matmul
with batch x chunk rows. It also transposes each matrix once, and stores only the carries and the
results of the matmuls, because recomputing the element-wise rest is cheaper. Values and gradients
equal those of the plain scan.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from jaxmodels.ops.common.precision import precision_of
from jaxmodels.ops.common.varying import cast_alike, cast_like, zeros_like

Step = Callable[[Callable[[str, jax.Array], jax.Array], Any, Any, Any], tuple[Any, Any]]


def deferred_scan(
    step: Step,
    weights: dict[str, jax.Array],
    params,
    carry,
    xs,
    *,
    keep: tuple[str, ...] = (),
    chunk: int = 16,
):
    """Run `step` over the leading axis of `xs`, like `jax.lax.scan`.

    Args:
      step: `step(dot, params, carry, x) -> (carry, y)`, where `dot(name, v)` is `v @ weights[name]`
        in float32 for `v` of shape (batch, inputs). Each name is used exactly once per step.
      weights: name -> (inputs, outputs), in the dtype of the matmuls.
      params: any other differentiable parameters, a pytree.
      carry: pytree, the state before the first step.
      xs: pytree with a leading time axis.
      keep: names of matmuls whose results are returned.
      chunk: number of steps whose weight gradients are formed together.

    Returns:
      (carry, ys, kept): kept maps each name in `keep` to (time, batch, outputs). All of it is
      differentiable with respect to weights, params, carry and xs.
    """

    forward = functools.partial(_forward, step, keep)

    @jax.custom_vjp
    def run(*arguments):
        return forward(arguments, residuals=False)

    def run_forward(*arguments):
        values = jax.tree.map(
            lambda x: x.value, arguments, is_leaf=lambda x: isinstance(x, CustomVJPPrimal)
        )
        return forward(values, residuals=True)

    run.defvjp(run_forward, functools.partial(_backward, step, keep, chunk), symbolic_zeros=True)
    return run(*cast_alike(weights, params, carry, xs))


def _forward(step, keep, arguments, residuals):
    """Run the scan -> (carry, ys, kept), and with `residuals` those of `_backward`."""
    weights, params, carry, xs = arguments

    def body(carry, x):
        x = _sliced(x)
        dot, products = _recording_dot(weights)
        after, y = step(dot, params, carry, x)
        if residuals:
            return after, (y, carry, products)
        return after, (y, {name: products[name] for name in keep})

    last, (ys, *rest) = jax.lax.scan(body, carry, xs)
    if not residuals:
        return last, ys, *rest
    carries, products = rest
    kept = {name: products[name] for name in keep}
    return (last, ys, kept), (weights, params, xs, carries, products)


def _backward(step, keep, chunk, residuals, cotangents):
    """Scan backwards over chunks of steps, with one weight-gradient matmul per chunk."""
    weights, params, xs, carries, products = residuals
    d_carry, d_ys, d_kept = cotangents
    d_carry = jax.tree.map(_instantiate, d_carry, is_leaf=_is_zero)
    d_out, fill_zeros = _drop_zeros((d_ys, d_kept))
    back = _step_backward(step, keep, weights, params, fill_zeros)
    integers, floats = _split(xs)

    def back_over_chunk(running, inputs):
        d_weights, *running = running
        running, (d_x, seen, d_taps) = jax.lax.scan(back, tuple(running), inputs, reverse=True)

        def add(total, v, d):
            options = {"precision": precision_of(v.dtype), "preferred_element_type": jnp.float32}
            return total + jnp.einsum("tbi,tbo->io", v, d.astype(v.dtype), **options)

        d_weights = {name: add(d_weights[name], seen[name], d_taps[name]) for name in seen}
        return (d_weights, *running), d_x

    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    zeros, d_carry = cast_like((zeros, d_carry), weights)
    running = (zeros, d_carry, zeros_like(params))
    inputs = (integers, floats, carries, products, d_out)
    running, d_x = _scan_chunks_backwards(back_over_chunk, running, inputs, chunk)
    d_weights, d_carry, d_params = running
    d_weights = {name: d.astype(weights[name].dtype) for name, d in d_weights.items()}
    return d_weights, d_params, d_carry, _join(jax.tree.map(_no_gradient, integers), d_x)


def _step_backward(step, keep, weights, params, fill_zeros):
    """Build the body of the backward scan, which replays one step and differentiates it.

    It returns ((gradients of the carry and, accumulated, of params), (gradient of x, inputs of the
    matmuls, cotangents of the matmuls)).
    """
    transposed = {name: weight.T for name, weight in weights.items()}

    def back(running, inputs):
        d_carry, d_params = running
        integer, x, carry, products, d_out = _sliced(inputs)

        def replay(params, carry, x, taps):
            seen, replayed = {}, {}

            def dot(name, v):
                seen[name] = v.astype(weights[name].dtype)
                y = _replayed_matmul(v, products[name], transposed[name], taps[name])
                replayed[name] = y
                return y

            carry, y = step(dot, params, carry, _join(integer, x))
            return (carry, (y, {name: replayed[name] for name in keep})), seen

        taps = zeros_like(products)
        _, vjp, seen = jax.vjp(replay, params, carry, x, taps, has_aux=True)
        more, d_carry, d_x, d_taps = vjp((d_carry, cast_like(fill_zeros(d_out), weights)))
        return (d_carry, jax.tree.map(jnp.add, d_params, more)), (d_x, seen, d_taps)

    return back


def _scan_chunks_backwards(back_over_chunk, running, inputs, chunk):
    """Scan `inputs` backwards, `chunk` steps at a time, starting with the shorter remainder."""
    time = jax.tree.leaves(inputs)[0].shape[0]
    size = min(chunk, time)
    whole = time - time % size
    tail = []
    if whole < time:
        running, d_x = back_over_chunk(running, jax.tree.map(lambda x: x[whole:], inputs))
        tail = [d_x]
    parts = jax.tree.map(lambda x: x[:whole].reshape(whole // size, size, *x.shape[1:]), inputs)
    running, d_x = jax.lax.scan(back_over_chunk, running, parts, reverse=True)
    d_x = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), d_x)
    return running, jax.tree.map(lambda *x: jnp.concatenate(x), d_x, *tail)


def _sliced(inputs):
    """Keep the slices of one step apart from what reads them.

    XLA:CPU would fuse each slice into the element-wise part of the step, which it then does not
    vectorize: 80 for 40 us a step of a GRU (16 x 256) and its matmul.
    """
    return jax.lax.optimization_barrier(inputs)


def _recording_dot(weights):
    products = {}

    def dot(name, v):
        if name in products:
            raise ValueError(f"dot({name!r}) is used twice in one step")
        products[name] = _product(v, weights[name])
        return products[name]

    return dot, products


def _product(x, weight):
    options = {"precision": precision_of(weight.dtype), "preferred_element_type": jnp.float32}
    return jnp.dot(x.astype(weight.dtype), weight, **options)


@jax.custom_vjp
def _replayed_matmul(v, product, weight_t, tap):
    """Return the stored `product` v @ weight; the cotangent flows to `v` and to `tap`.

    It flows to `weight_t`, too, which only second derivatives use: `product` is then a function of
    the weight, but that of the first derivative is formed from `tap` for several steps at a time.
    """
    del v, weight_t, tap
    return product


def _replayed_matmul_fwd(v, product, weight_t, tap):
    return product, (weight_t, v)


def _replayed_matmul_bwd(residual, g):
    weight_t, v = residual
    d_weight_t = _product(g.T, v.astype(weight_t.dtype)).astype(weight_t.dtype)
    return _product(g, weight_t).astype(v.dtype), None, d_weight_t, g


_replayed_matmul.defvjp(_replayed_matmul_fwd, _replayed_matmul_bwd)


def _is_zero(x):
    return isinstance(x, SymbolicZero)


def _instantiate(x):
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x


def _drop_zeros(tree):
    """Return the nonzero cotangents, and a function that restores the zeros at one step.

    Otherwise arrays of zeros would be written, read and added at every step.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=_is_zero)

    def fill_zeros(used):
        used = iter(used)
        return structure.unflatten(
            jnp.zeros(x.shape[1:], x.dtype) if _is_zero(x) else next(used) for x in leaves
        )

    return [x for x in leaves if not _is_zero(x)], fill_zeros


def _split(xs):
    """Split `xs` into integer and floating leaves, each tree with None for the other leaves."""

    def pick(floating):
        return jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) == floating else None, xs
        )

    return pick(False), pick(True)


def _join(one, other):
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=lambda x: x is None)


def _no_gradient(x):
    return np.zeros(x.shape, jax.dtypes.float0)
