"""A flag that keeps XLA's CPU compiler exact in the jaxlib versions that need it.

From jaxlib 0.10.2 on, XLA:CPU hands fused reductions to YNNPACK. Until 0.12 some of them come out
wrong without a word (jax-ml/jax#39103: a float32 sum of squares off by 0.2 %) or crash the process
(#39257, #40412). With matmuls alone handed over, they are right.
"""

import functools
import os
import re
import warnings

import jax
import jaxlib
from jax._src import xla_bridge  # no public function tells whether the backends have started

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
SAFE = "individual_dot"
SAFE_VALUES = (SAFE, "-reduce", "")  # "dot" alone still fuses a matmul with the sum that follows
AFFECTED = re.compile(r"0\.10\.2(?!\d)|0\.11\.")


def is_affected(version: str) -> bool:
    """Whether the CPU compiler of this jaxlib version, e.g. "0.10.2", may compute wrong values."""
    return AFFECTED.match(version) is not None


def set_safe_flags() -> None:
    """Adds the safe flag to XLA_FLAGS where jaxlib needs it; each command calls it first.

    Leaves a value of the user's alone, and does nothing once JAX has started its backends, which
    read the flags.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if not is_affected(jaxlib.__version__) or _value(given) is not None:
        return
    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{given} {FLAG}={SAFE}".strip()


@functools.cache
def warn_if_unsafe() -> None:
    """Warns, once, of an affected jaxlib that computes on a CPU without the safe flag."""
    if not is_affected(jaxlib.__version__) or jax.default_backend() != "cpu":
        return
    if _value(os.environ.get("XLA_FLAGS", "")) not in SAFE_VALUES:
        warnings.warn(
            f"jaxlib {jaxlib.__version__} can compute wrong values on a CPU (jax-ml/jax#39103): "
            f"install jax 0.10.1 or 0.12, or start with XLA_FLAGS={FLAG}={SAFE}",
            RuntimeWarning,
            stacklevel=3,
        )


def _value(flags: str) -> str | None:
    """The flag's value in a string like XLA_FLAGS, the last one if there are several."""
    found = re.findall(rf"(?:^|\s){FLAG}=(\S*)", flags)
    return found[-1] if found else None
