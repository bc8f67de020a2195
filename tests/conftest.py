"""Eight emulated devices, set before JAX starts; strict about ranks (and warnings: pyproject)."""

import os

_FLAG = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402 - after the flags

jax.config.update("jax_numpy_rank_promotion", "raise")
assert len(jax.devices()) == 8  # now, before a test changes the flags for its subprocesses
