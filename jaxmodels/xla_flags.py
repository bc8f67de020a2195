"""The flag that keeps XLA:CPU exact in the jaxlib versions that need it.

Since jaxlib 0.10.2, XLA:CPU offloads fused reductions to YNNPACK. Before 0.12 some of them return
wrong values silently (jax-ml/jax#39103: a float32 sum of squares off by 0.2 %) or crash the process
(#39257, #40412). They are correct if only matmuls are offloaded.
"""

import functools
import os
import re
import warnings

import jax
import jaxlib
from jax._src import xla_bridge  # no public function reports whether backends are initialized

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
SAFE = "individual_dot"
SAFE_VALUES = (SAFE, "-reduce", "")  # "dot" still fuses a matmul with the sum that follows
AFFECTED = re.compile(r"0\.10\.2(?!\d)|0\.11\.")


def is_affected(version: str) -> bool:
    """Return whether XLA:CPU of a jaxlib version, e.g. "0.10.2", may compute wrong values."""
    return AFFECTED.match(version) is not None


def set_safe_flags() -> None:
    """Add the safe flag to XLA_FLAGS if jaxlib needs it; every command calls this first.

    Keeps a value set by the user, and does nothing once JAX has initialized its backends, which
    read the flags.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not is_affected(jaxlib.__version__) or _value(flags) is not None:
        return
    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}={SAFE}".strip()


@functools.cache
def warn_if_unsafe() -> None:
    """Warn once if an affected jaxlib computes on a CPU without the safe flag."""
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
    """Return the flag's last value in a string like XLA_FLAGS, None without one."""
    values = re.findall(rf"(?:^|\s){FLAG}=(\S*)", flags)
    return values[-1] if values else None
