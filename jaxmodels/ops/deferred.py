"""A `lax.scan` whose weight gradients are formed many steps at a time.

Differentiating a scan over time makes the backward loop add an outer product of a few rows to every
weight matrix at every step: each matrix travels through memory once more a step, for a product with
as many rows as the batch. Here the backward loop first collects the cotangents of `chunk` steps and
then forms one product with batch x chunk rows. Besides, it transposes each matrix once, instead of
at every step, and it keeps only the carries and the products: everything between two products is
element-wise, and recomputing it costs less than writing it out for every token. Values and
gradients are those of the plain scan.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from jaxmodels.ops.precision import precision_of

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
    """Runs `step` over the leading axis of `xs`, like `jax.lax.scan`.

    Args:
      step: `step(dot, params, carry, x) -> (carry, y)`, where `dot(name, v)` is `v @ weights[name]`
        in float32 for `v` of shape (batch, inputs). Each name is used exactly once a step.
      weights: name -> (inputs, outputs), in the dtype the products are to be computed in.
      params: any other differentiable parameters, a pytree.
      carry: pytree, the state before the first step.
      xs: pytree with a leading time axis.
      keep: names of products to return; the backward pass has them anyway.
      chunk: number of steps whose weight gradients are formed together.

    Returns:
      (carry, ys, kept): kept maps each name in `keep` to (time, batch, outputs). All of it is
      differentiable with respect to weights, params, carry and xs.
    """

    def plain(weights, params, carry, xs):
        def body(carry, x):
            dot, products = _recording_dot(weights)
            carry, y = step(dot, params, carry, x)
            return carry, (y, {name: products[name] for name in keep})

        carry, (ys, kept) = jax.lax.scan(body, carry, xs)
        return carry, ys, kept

    run = jax.custom_vjp(plain)

    def fwd(weights, params, carry, xs):
        arguments = (weights, params, carry, xs)
        weights, params, carry, xs = jax.tree.map(
            lambda x: x.value, arguments, is_leaf=lambda x: isinstance(x, CustomVJPPrimal)
        )

        def body(carry, x):
            dot, products = _recording_dot(weights)
            after, y = step(dot, params, carry, x)
            return after, (y, carry, products)

        last, (ys, carries, products) = jax.lax.scan(body, carry, xs)
        kept = {name: products[name] for name in keep}
        return (last, ys, kept), (weights, params, xs, carries, products)

    def bwd(residual, cotangents):
        weights, params, xs, carries, products = residual
        d_carry, d_ys, d_kept = cotangents
        d_carry = jax.tree.map(_instantiate, d_carry, is_leaf=_is_zero)
        d_out, fill_zeros = _drop_zeros((d_ys, d_kept))
        transposed = {name: weight.T for name, weight in weights.items()}
        integers, floats = _split(xs)

        def one(running, inputs):
            d_carry, d_params = running
            integer, x, carry, products, d_out = inputs

            def replay(params, carry, x, taps):
                seen, recalled = {}, {}

                def dot(name, v):
                    seen[name] = v.astype(weights[name].dtype)
                    y = _recalled(v, products[name], transposed[name], taps[name])
                    recalled[name] = y
                    return y

                carry, y = step(dot, params, carry, _join(integer, x))
                return (carry, (y, {name: recalled[name] for name in keep})), seen

            taps = jax.tree.map(jnp.zeros_like, products)
            _, vjp, seen = jax.vjp(replay, params, carry, x, taps, has_aux=True)
            more, d_carry, d_x, d_taps = vjp((d_carry, fill_zeros(d_out)))
            return (d_carry, jax.tree.map(jnp.add, d_params, more)), (d_x, seen, d_taps)

        def several(running, inputs):
            d_weights, *running = running
            running, (d_x, seen, d_taps) = jax.lax.scan(one, tuple(running), inputs, reverse=True)

            def add(total, v, d):
                return total + jnp.einsum(
                    "tbi,tbo->io",
                    v,
                    d.astype(v.dtype),
                    precision=precision_of(v.dtype),
                    preferred_element_type=jnp.float32,
                )

            d_weights = {name: add(d_weights[name], seen[name], d_taps[name]) for name in seen}
            return (d_weights, *running), d_x

        zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
        running = (zeros, d_carry, jax.tree.map(jnp.zeros_like, params))
        inputs = (integers, floats, carries, products, d_out)
        time = jax.tree.leaves(xs)[0].shape[0]
        size = min(chunk, time)
        whole = time - time % size
        tail = []
        if whole < time:
            running, d_x = several(running, jax.tree.map(lambda x: x[whole:], inputs))
            tail = [d_x]
        parts = jax.tree.map(lambda x: x[:whole].reshape(whole // size, size, *x.shape[1:]), inputs)
        running, d_x = jax.lax.scan(several, running, parts, reverse=True)
        d_x = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), d_x)
        d_x = jax.tree.map(lambda *x: jnp.concatenate(x), d_x, *tail)
        d_weights, d_carry, d_params = running
        d_weights = {name: d.astype(weights[name].dtype) for name, d in d_weights.items()}
        return d_weights, d_params, d_carry, _join(jax.tree.map(_no_gradient, integers), d_x)

    run.defvjp(fwd, bwd, symbolic_zeros=True)
    return run(weights, params, carry, xs)


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
def _recalled(v, product, weight_t, tap):
    """The known value of v @ weight; its backward pass sends the cotangent to `v` and to `tap`."""
    del v, weight_t, tap
    return product


def _recalled_fwd(v, product, weight_t, tap):
    return product, (weight_t, jnp.zeros((0,), v.dtype))


def _recalled_bwd(residual, g):
    weight_t, like_v = residual
    return _product(g, weight_t).astype(like_v.dtype), None, None, g


_recalled.defvjp(_recalled_fwd, _recalled_bwd)


def _is_zero(x):
    return isinstance(x, SymbolicZero)


def _instantiate(x):
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x


def _drop_zeros(tree):
    """(cotangents of outputs that somebody used, how to put zeros for the others back at one step).

    An array of zeros would be written, read and added at every step.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=_is_zero)

    def fill_zeros(used):
        used = iter(used)
        return structure.unflatten(
            jnp.zeros(x.shape[1:], x.dtype) if _is_zero(x) else next(used) for x in leaves
        )

    return [x for x in leaves if not _is_zero(x)], fill_zeros


def _split(xs):
    """(leaves without a gradient, leaves with one), each in the structure of `xs`, else None."""

    def pick(want):
        return jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) == want else None, xs
        )

    return pick(False), pick(True)


def _join(one, other):
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=lambda x: x is None)


def _no_gradient(x):
    return np.zeros(x.shape, jax.dtypes.float0)
