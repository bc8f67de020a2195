"""A `lax.scan` whose weight gradients are formed once, after the scan.

Differentiating a scan over time makes the backward loop add an outer product of a few rows to every
weight matrix at every step: the matrices travel through memory T times, and the products have as many
rows as the batch. Here the backward loop only propagates the cotangents of the pre-activations; the
weight gradients are one product with batch x time rows each. Two more things happen on the way: the
backward products read weights transposed once instead of at every step, and whatever `step` does with
its other parameters is differentiated as usual. Values and gradients are those of the plain scan.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Step = Callable[[Callable[[str, jax.Array], jax.Array], Any, Any, Any], tuple[Any, Any]]

SAVE_PRODUCTS = jax.checkpoint_policies.save_only_these_names("product")


@jax.custom_vjp
def _tapped_dot(x, weight, weight_t, tap):
    del weight_t, tap
    return jnp.dot(x.astype(weight.dtype), weight, preferred_element_type=jnp.float32)


def _tapped_dot_fwd(x, weight, weight_t, tap):
    return _tapped_dot(x, weight, weight_t, tap), (weight_t, jnp.zeros((0,), x.dtype))


def _tapped_dot_bwd(residual, g):
    weight_t, like_x = residual
    dx = jnp.dot(g.astype(weight_t.dtype), weight_t, preferred_element_type=jnp.float32)
    # The weights are never differentiated through this product: `tap` carries its cotangent out.
    return dx.astype(like_x.dtype), None, None, g


_tapped_dot.defvjp(_tapped_dot_fwd, _tapped_dot_bwd)


def deferred_scan(
    step: Step, weights: dict[str, jax.Array], params, carry, xs, *, unroll: int = 1
):
    """Runs `step` over the leading axis of `xs`, like `jax.lax.scan`.

    Args:
      step: `step(dot, params, carry, x) -> (carry, y)`, where `dot(name, v)` is `v @ weights[name]`
        in float32 for `v` of shape (batch, inputs). Each name is used exactly once a step.
      weights: name -> (inputs, outputs), in the dtype the products are to be computed in.
      params: any other differentiable parameters, a pytree.
      carry: pytree, the state before the first step.
      xs: pytree with a leading time axis.
      unroll: as in `jax.lax.scan`.

    Returns:
      (carry, ys), both differentiable with respect to weights, params, carry and xs.
    """
    time = jax.tree.leaves(xs)[0].shape[0]

    def plain(weights, params, carry, xs):
        def dot(name, v):
            weight = weights[name]
            return jnp.dot(v.astype(weight.dtype), weight, preferred_element_type=jnp.float32)

        return jax.lax.scan(lambda c, x: step(dot, params, c, x), carry, xs, unroll=unroll)

    run = jax.custom_vjp(plain)

    def fwd(weights, params, carry, xs):
        transposed = {name: weight.T for name, weight in weights.items()}

        # Between the products everything is element-wise: recomputed in the backward loop it costs
        # less than being written out for every token and read back.
        @partial(jax.checkpoint, policy=SAVE_PRODUCTS, prevent_cse=False)
        def one(params, carry, x, taps):
            inputs = {}

            def dot(name, v):
                if name in inputs:
                    raise ValueError(f"dot({name!r}) is used twice in one step")
                inputs[name] = v.astype(weights[name].dtype)
                y = _tapped_dot(v, weights[name], transposed[name], taps[name])
                return checkpoint_name(y, "product")

            carry, y = step(dot, params, carry, x)
            return carry, (y, inputs)

        def traced(params, carry, xs, taps):
            def body(carry, xs_and_taps):
                return one(params, carry, *xs_and_taps)

            carry, (ys, inputs) = jax.lax.scan(body, carry, (xs, taps), unroll=unroll)
            return (carry, ys), inputs

        batch = jax.tree.leaves(carry)[0].shape[0]
        taps = {
            name: jnp.zeros((time, batch, weight.shape[1]), jnp.float32)
            for name, weight in weights.items()
        }
        out, vjp, inputs = jax.vjp(traced, params, carry, xs, taps, has_aux=True)
        return out, (vjp, inputs, {n: jnp.zeros((0,), w.dtype) for n, w in weights.items()})

    def bwd(residual, cotangents):
        vjp, inputs, like = residual
        d_params, d_carry, d_xs, d_taps = vjp(cotangents)
        d_weights = {
            name: jnp.einsum(
                "tbi,tbo->io",
                inputs[name],
                d_taps[name].astype(inputs[name].dtype),
                preferred_element_type=jnp.float32,
            ).astype(like[name].dtype)
            for name in inputs
        }
        return d_weights, d_params, d_carry, d_xs

    run.defvjp(fwd, bwd)
    return run(weights, params, carry, xs)
