"""Int8 weights for decoding: matrices and embedding tables in a quarter of the bytes.

    w ~ scale * q ;  q int8, scale = max |w| / 127, one per output channel (or row of a table)

Weights alone are rounded, to at most scale / 2; they are made float again where they are used, so
activations, states and everything that is no matrix stay as they are. Scaling by the largest
magnitude per channel is the symmetric scheme of LLM.int8 (arXiv 2208.07339, section 2.1).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.layers import Int8
from jaxmodels.errors import UserError
from jaxmodels.tree import flatten

SMALLEST = 16  # a matrix with a shorter side is no matter of bytes
# Maps to decay rates and step sizes, whose errors a recurrence would compound.
PRECISE = ("decay", "rate", "dt_proj")


def quantize(model: nnx.Module) -> nnx.Module:
    """Return a copy of a model with int8 matrices and embedding tables, for decoding.

    Left as they are: vectors, small matrices, and maps to decays and step sizes. The copy is called
    like the model and cannot be trained.

    Raises:
      UserError: the model is quantized already, or has nothing to quantize.
    """
    if is_quantized(model):
        raise UserError("the model has int8 weights already")
    copy, count = jax.tree.map(lambda x: x, model), 0
    for path, module in list(nnx.iter_modules(copy)):
        if path and path[-1] in PRECISE:
            continue
        for name, axis in (("kernel", -2), ("table", -1)):
            array = getattr(module, name, None)
            if isinstance(array, nnx.Param) and array.ndim >= 2:
                if min(array.shape[-2:]) >= SMALLEST:
                    setattr(module, name, Int8(array[...], axis))
                    count += 1
    if not count:
        raise UserError(f"{type(model).__name__} has no matrices that int8 would make smaller")
    return copy


def is_quantized(model: nnx.Module) -> bool:
    """Return whether a model has int8 weights."""
    return any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(model))


def num_bytes(model: nnx.Module) -> int:
    """Return the bytes of a model's arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in flatten(model).values())
