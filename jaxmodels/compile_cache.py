"""Compiled programs are kept on disk, so that a command starts fast the second time.

JAX's own cache, in a folder of the user: `$XDG_CACHE_HOME/jaxmodels` or `~/.cache/jaxmodels`. What
JAX's key does not tell apart is in the folder's name: a CPU's instructions, which differ between
machines that share a home, and the number of threads, for which XLA:CPU divides work. A cache that
cannot be read or written only costs time.
"""

import hashlib
import importlib.util
import os
import platform
import re
import warnings
from pathlib import Path

import jax

MOST_BYTES = 2 << 30
LEAST_SECONDS = 0.3  # of compiling; what takes less is compiled again
OWN = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
CPU_INFO = "/proc/cpuinfo"


def set_compilation_cache() -> None:
    """Let JAX keep what it compiles; every command calls this first.

    Does nothing where the user has set one of JAX's variables `OWN`, where the folder cannot be
    made, and on processors whose programs XLA refuses to load (openxla/xla#44565).
    """
    if any(name in os.environ for name in OWN) or jax.config.jax_compilation_cache_dir:
        return
    cpu = _cpu()
    if re.search(r"^bugs\s*:.*\bgds\b", cpu, re.MULTILINE):
        return
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    made = hashlib.sha256(cpu.encode()).hexdigest()[:12]
    try:
        folder = Path(root).expanduser() / "jaxmodels" / f"{made}-{threads}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home
        return
    if not os.access(folder, os.W_OK):
        return
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    if importlib.util.find_spec("filelock"):
        jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)


def _cpu() -> str:
    """Return what tells one kind of processor from another: its first entry in /proc/cpuinfo."""
    try:
        entry = Path(CPU_INFO).read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        entry = f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features", "bugs")
    lines = [line for line in entry.splitlines() if line.startswith(names)]
    return "\n".join(lines) or entry
