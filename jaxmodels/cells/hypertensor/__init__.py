"""HyperTensor field: local piecewise-linear regressors that vote by distance, and learn locally.

No recurrence: a field maps an input to an output, so it is not in `CELLS`. Everything is a pure
function of a `Field`, the state:

    field               = random_field(config, key)
    reading             = read(config, field, x)                # which tensors answer, how much
    y                   = combine(field, reading)               # (B, V)
    grads, dx           = gradients(config, field, reading, x, g)    # g = d loss / d y
    field               = apply_gradients(config, field, grads)
"""

from jaxmodels.cells.hypertensor.field import Field, FieldConfig, field_bytes, random_field
from jaxmodels.cells.hypertensor.predict import Reading, combine, predict, read
from jaxmodels.cells.hypertensor.update import Gradients, apply_gradients, gradients

__all__ = [
    "Field",
    "FieldConfig",
    "Gradients",
    "Reading",
    "apply_gradients",
    "combine",
    "field_bytes",
    "gradients",
    "predict",
    "random_field",
    "read",
]
