"""Floating-point operations of a training step, and the compute with which entries reach a loss.

Counted from the traced program, not estimated from parameters: products of matrices and
convolutions by their sizes, every other operation on numbers as one per element of its result, and
the body of a loop as often as it runs.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from ml_collections import ConfigDict

from jaxmodels.errors import UserError

# Operations that move numbers or make indices, and compute nothing.
MOVES = set(
    "broadcast_in_dim reshape transpose squeeze slice dynamic_slice dynamic_update_slice gather "
    "concatenate pad rev copy convert_element_type stop_gradient iota select_n split "
    "optimization_barrier sharding_constraint device_put expand_dims copy_p".split()
)


def step_flops(config: ConfigDict) -> float:
    """Return the operations of loss and gradient on one batch of a config, vocabulary resolved."""
    from jaxmodels.models.contract import loss_weights, target_counts
    from train.model import build_model

    model = jax.eval_shape(lambda: build_model(config))
    rows, length = config.batch_size, config.seq_len
    names = {"inputs": "int32", "targets": "int32", "weights": "float32", "reset": "bool"}
    batch = {name: jax.ShapeDtypeStruct((rows, length), dtype) for name, dtype in names.items()}

    def loss(model, batch):
        _, sums = model.loss_sums(model.initial_state(rows), batch)
        counts, weights = target_counts(model, batch), loss_weights(model, 1.0)
        return sum(weights[name] * sums[name] / counts[name] for name in weights)

    return flops_of(jax.make_jaxpr(jax.grad(loss))(model, batch))


def flops_of(jaxpr: ClosedJaxpr | Jaxpr) -> float:
    """Return the operations of a program.

    Raises:
      UserError: a loop without a known number of rounds, or a kernel.
    """
    return sum(_flops(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _flops(equation) -> float:
    name, params = equation.primitive.name, equation.params
    sizes = [math.prod(getattr(x.aval, "shape", ())) for x in equation.outvars]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * sizes[0] * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        taps = equation.invars[1].aval.shape
        outputs = params["dimension_numbers"].rhs_spec[0]
        return 2.0 * sizes[0] * math.prod(taps) / taps[outputs]
    if name == "scan":
        return params["length"] * flops_of(params["jaxpr"])
    if name == "cond":
        return max(flops_of(branch) for branch in params["branches"])
    if name in ("while", "pallas_call"):
        raise UserError(f"compute: the operations of a {name} cannot be counted")
    inner = [x for x in jax.tree.leaves(list(params.values()), is_leaf=_is_program)]
    programs = [x for x in inner if _is_program(x)]
    if programs:  # a call: of its programs the first, as others are derivatives
        return flops_of(programs[0])
    if name in MOVES:
        return 0.0
    if name.startswith(("reduce_", "cum", "arg")):
        return float(math.prod(equation.invars[0].aval.shape))
    return float(sum(sizes))


def _is_program(x: Any) -> bool:
    return isinstance(x, ClosedJaxpr | Jaxpr)


def to_reach(runs: Sequence[Mapping[str, Any]], level: float) -> float | None:
    """Return the mean step at which runs reach a validation value, between two validations.

    None if one of them never does, or there are none.
    """
    steps = [_crossing(run["valid"]["steps"], run["valid"]["values"], level) for run in runs]
    return statistics.fmean(steps) if steps and None not in steps else None


def _crossing(steps: Sequence[int], values: Sequence[float], level: float) -> float | None:
    below = np.flatnonzero(np.asarray(values) <= level)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(steps[0])
    share = (values[i - 1] - level) / (values[i - 1] - values[i])
    return steps[i - 1] + share * (steps[i] - steps[i - 1])
