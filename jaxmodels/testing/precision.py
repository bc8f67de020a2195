"""Search of a traced program for float32 matmuls without `Precision.HIGHEST`."""

import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxmodels.ops.common.precision import EXACT

MATMULS = ("dot_general", "ragged_dot_general", "conv_general_dilated")


def inexact_matmuls(jaxpr) -> list[str]:
    """Return the locations, "file.py:line", of float32 matmuls without `Precision.HIGHEST`.

    jaxpr: as returned by `jax.make_jaxpr`; searched recursively, including loops, branches,
    derivatives and kernels.
    """
    return list(
        dict.fromkeys(_place(equation) for equation in _matmuls(jaxpr) if _inexact(equation))
    )


def _inexact(equation) -> bool:
    if any(x.aval.dtype != jnp.float32 for x in equation.invars[:2]):
        return False
    precision = equation.params["precision"]
    return precision not in (EXACT, (EXACT, EXACT))


def _matmuls(jaxpr) -> Iterator:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # unwrap a closed jaxpr
    for equation in jaxpr.eqns:
        if equation.primitive.name in MATMULS:
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _matmuls(inner)


def _is_program(x) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")


def _place(equation) -> str:
    """Return the innermost source line outside of installed packages and of this package."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        path = pathlib.Path(frame.file_name)
        if "site-packages" not in path.parts and path.parent != pathlib.Path(__file__).parent:
            return f"{path.name}:{frame.line_num}"
    return "unknown line"
