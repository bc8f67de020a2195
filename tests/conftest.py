"""Eight emulated devices and XLA's safe flags, set before JAX starts; strict about ranks.

Warnings are errors, see pyproject.
"""

import os

_FLAG = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402 - after the flags

from jaxmodels.xla_flags import set_safe_flags, warn_if_unsafe  # noqa: E402

set_safe_flags()
warn_if_unsafe()  # while the flags are those that JAX starts with: some tests drop them
jax.config.update("jax_numpy_rank_promotion", "raise")
assert len(jax.devices()) == 8  # now, before a test changes the flags for its subprocesses
