"""Eight emulated devices and XLA's safe flags, set before JAX starts; strict about ranks.

XLA's optimization is off, because on a CPU compiling takes far longer than running; with
JAX_DISABLE_MOST_OPTIMIZATIONS=0, as `make test-slow` and `make check` set it, programs are compiled
as users' are.

Warnings are errors, see pyproject. Compiled programs are shared by the processes of a run, its
subprocesses and the next run (`.pytest_cache/xla`; or JAX_COMPILATION_CACHE_DIR), and dropped
from memory after each file: they would pile up to gigabytes.
"""

import contextlib
import ctypes
import gc
import os
import pathlib

_FLAG = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402 - after the flags
import pytest  # noqa: E402

from jaxmodels.xla_flags import set_safe_flags, warn_if_unsafe  # noqa: E402

set_safe_flags()
warn_if_unsafe()  # while the flags are those that JAX starts with: some tests drop them
jax.config.update("jax_numpy_rank_promotion", "raise")
assert len(jax.devices()) == 8  # now, before a test changes the flags for its subprocesses


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark the tests of `slow.txt` as slow; a line without a test is an error."""
    lines = (pathlib.Path(__file__).parent / "slow.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)
    if not any("::" in argument for argument in config.args):
        found = {item.nodeid for item in items}
        files = {name.partition("::")[0] for name in found}
        stale = [name for name in listed - found if name.partition("::")[0] in files]
        if stale:
            raise pytest.UsageError(f"tests/slow.txt: no such test: {min(stale)}")


@pytest.fixture(autouse=True, scope="module")
def drop_compiled_programs():
    """Free the programs of a test file once its tests are done."""
    yield
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        # The trainer tells malloc to keep what is freed (train/devices/malloc.py).
        ctypes.CDLL(None).malloc_trim(0)
