"""Damage to weight files of every format: each ends in a model or in one line for the user.

    python -m tests.convert.fuzz --inputs 10000 --out fuzz.json      # each format; four minutes

No traceback, no hang, no gigabyte. The JSON has, by format, how many inputs were refused and
loaded, the slowest, the growth of memory, and the failures with the edits that gave them.
"""

import argparse
import collections
import contextlib
import json
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import jax
from hypothesis import strategies as st
from safetensors.numpy import load_file

from jaxmodels import UserError, convert
from tests.convert.common import GOLDENS
from tests.convert.torch_files import write_torch

SECONDS, BYTES = 10, 2**29  # for one input; of growth over all inputs
PTH = GOLDENS / "blinkdl" / "rwkv4.pth"
NUMBERS = [
    b"\xff" * 4,
    b"\xff" * 8,
    b"\0" * 8,
    b"\0\0\0\x80",
    b"\xff" * 7 + b"\x7f",
    b"\0" * 7 + b"\1",
]
VALUES = [None, True, -1, 0, 1, 2, 3.5, 2**31, 2**63, 10**400, 1e400, "", "x", "2", [], [1], {}]
MEMBERS = ("config.json", "model.safetensors", "weights.safetensors", "pytorch_model.bin")


def sources(folder: Path) -> dict[str, Path]:
    """Write a sound input of each format; return its path by name."""
    model, mamba = convert.load(PTH), GOLDENS / "mamba"
    made = {name: folder / name for name in ("torch", "safetensors", "rwkv_cpp", "jaxmodels")}
    shutil.copy(PTH, made["torch"])
    convert.save(model, made["safetensors"], to="blinkdl")
    convert.save(model, made["rwkv_cpp"], to="rwkv_cpp")
    convert.save(model, made["jaxmodels"])
    tensors = load_file(mamba / "model.safetensors")
    for name in ("huggingface", "huggingface_bin", "mamba_ssm"):
        path = made[name] = folder / name
        path.mkdir()
        shutil.copy(mamba / "config.json", path)
        if name == "huggingface":
            shutil.copy(mamba / "model.safetensors", path)
        else:
            write_torch(path / "pytorch_model.bin", tensors, protocol=2 if "bin" in name else 5)
    config = {"d_model": 32, "n_layer": 2, "vocab_size": 49, "pad_vocab_size_multiple": 10}
    config["ssm_cfg"] = {"layer": "Mamba1", "d_state": 8, "dt_rank": 3}
    (made["mamba_ssm"] / "config.json").write_text(json.dumps(config))
    for path in made.values():
        convert.load(path)
    return made


# Where an edit falls, in 2^16 parts of the file; headers and directories are at its ends.
PLACES = st.integers(0, 2**16 - 1) | st.integers(0, 2000) | st.integers(2**16 - 6000, 2**16 - 1)
EDITS = st.one_of(
    st.tuples(st.just("bit"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("byte"), PLACES, st.integers(0, 255)),
    st.tuples(st.just("number"), PLACES, st.integers(0, len(NUMBERS) - 1)),
    st.tuples(st.just("cut"), PLACES, st.just(0)),
    st.tuples(st.just("drop"), PLACES, st.integers(1, 64)),
    st.tuples(st.just("repeat"), PLACES, st.integers(1, 64)),
    st.tuples(st.just("field"), st.integers(0, 63), st.integers(0, len(VALUES) - 1)),
)
# Which file of a folder, and what is done to it.
DAMAGE = st.tuples(st.booleans(), st.lists(EDITS, min_size=1, max_size=3))


def damaged(content: bytes, edits) -> bytes:
    """Return the content after the edits."""
    for kind, place, value in edits:
        at = place * len(content) >> 16
        before, after = content[:at], content[at:]
        if kind == "bit" and after:
            content = before + bytes([after[0] ^ 1 << value]) + after[1:]
        elif kind == "byte":
            content = before + bytes([value]) + after[1:]
        elif kind == "number":
            content = before + NUMBERS[value] + after[len(NUMBERS[value]) :]
        elif kind == "cut":
            content = before
        elif kind == "drop":
            content = before + after[value:]
        elif kind == "repeat":
            content = before + after[:value] + after
        elif content[:1] == b"{":
            content = with_field(content, place, VALUES[value])
    return content


def with_field(content: bytes, index: int, value) -> bytes:
    """Return JSON with one field, or field of a field, replaced."""
    try:
        document = json.loads(content)
        places = [(document, name) for name in document]
        places += [(x, name) for x in document.values() if isinstance(x, dict) for name in x]
        holder, name = places[index % len(places)]
        holder[name] = value
        return json.dumps(document).encode()
    except (ValueError, IndexError, TypeError, AttributeError):  # no longer JSON of fields
        return content


def write_damaged(source: Path, target: Path, damage) -> None:
    """Write a copy of an input with the damage done to one of its files."""
    of_config, edits = damage
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        files = [source / name for name in MEMBERS if (source / name).is_file()]
        source = files[0] if of_config else files[-1]
        target = target / source.name
    target.write_bytes(damaged(source.read_bytes(), edits))


def outcome(path: Path) -> str:
    """Load the input and return "loaded" or "refused"; whatever else is raised is a failure."""
    with limited():
        try:
            convert.load(path)
        except UserError as error:
            message = str(error)
            assert message.isprintable() and len(message) < 1000, repr(message[:2000])
            assert str(path) in message, message
            return "refused"
    return "loaded"


@contextlib.contextmanager
def limited():
    """Raise TimeoutError in a block that takes `SECONDS`."""

    def stop(*_):
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    """Return the most memory that the process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(name: str, source: Path, folder: Path, inputs: int) -> dict:
    """Try many inputs of a format; return the figures."""
    counts, slowest, failures = collections.Counter(), 0.0, []
    start, before = time.time(), peak()

    @hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(DAMAGE)
    def one(damage):
        nonlocal slowest
        write_damaged(source, folder / f"damaged-{name}", damage)
        began = time.perf_counter()
        try:
            counts[outcome(folder / f"damaged-{name}")] += 1
        except Exception as error:
            failures.append({"damage": damage, "error": f"{type(error).__name__}: {error}"[:500]})
        slowest = max(slowest, time.perf_counter() - began)

    one()
    return {
        "inputs": sum(counts.values()) + len(failures),
        **counts,
        "failures": failures,
        "slowest_s": round(slowest, 2),
        "memory_growth_mib": (peak() - before) >> 20,
        "seconds": round(time.time() - start),
    }


def main() -> int:
    """Try every format; return 1 if an input failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.convert.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of each format")
    parser.add_argument("--out", type=Path, required=True, help="JSON of figures")
    parser.add_argument("--formats", nargs="*", default=[], help="some only; --out keeps others")
    options = parser.parse_args()
    known = json.loads(options.out.read_text())["formats"] if options.out.is_file() else {}
    figures = {
        "command": f"python -m tests.convert.fuzz --inputs {options.inputs}",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "hypothesis": hypothesis.__version__,
        },
        "formats": known,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, path in sources(Path(folder)).items():
            if not options.formats or name in options.formats:
                figures["formats"][name] = run(name, path, Path(folder), options.inputs)
                print(name, json.dumps(figures["formats"][name])[:300], flush=True)
                options.out.write_text(json.dumps(figures, indent=1) + "\n")
    formats = figures["formats"].values()
    return int(any(x["failures"] or x["memory_growth_mib"] > BYTES >> 20 for x in formats))


if __name__ == "__main__":
    sys.exit(main())
