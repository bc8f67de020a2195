"""Find what memory a checkpoint costs for good.

    python -m tests.train.growth [--checkpoints 400] [--json FILE]

Trains the toy three times in processes of their own: as it is; with every reference given back that
tensorstore loses; and with validations instead of checkpoints. Objects of Python and their bytes
are counted at a quarter and at the end. The resident memory would say less: over so few checkpoints
it follows what the allocators of C keep, and what the system takes back.

tensorstore's `JsonToPyObject` (python/tensorstore/json_type_caster.cc) hands its own references to
`PyDict_SetItem`, which takes new ones: no key and no value of a dict that it makes is ever freed.
Orbax asks for such dicts with every checkpoint: the counters of
`experimental_collect_matching_metrics`, and `KvStore.Spec.to_json` for each array.
"""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tensorstore
from orbax.checkpoint._src.serialization import tensorstore_utils

from tests.train.corpus import small_text
from tests.train.toy import toy_config
from train.io.steps import StepRecorder
from train.loop import run

EVERY = 10  # steps between two checkpoints, or two validations
KINDS = ("as it is", "references given back", "no checkpoints")

_drop = ctypes.pythonapi.Py_DecRef
_drop.argtypes = [ctypes.py_object]


def given_back(value):
    """Drop a reference to each key and value of the dicts in `value`, and return it."""
    if isinstance(value, dict):
        for key, item in value.items():
            given_back(item)
            _drop(key)
            _drop(item)
    elif isinstance(value, list):
        for item in value:
            given_back(item)
    return value


class _Mended:
    """A part of tensorstore, of which some functions give back what they lose."""

    def __init__(self, part, **mended):
        self.part = part
        vars(self).update(mended)

    def __getattr__(self, name):
        return getattr(self.part, name)


def mend() -> None:
    """Let Orbax use a tensorstore that loses no references."""
    collect, kvstore = tensorstore.experimental_collect_matching_metrics, tensorstore.KvStore

    def spec(value):
        made = kvstore.Spec(value)
        return _Mended(made, to_json=lambda: given_back(made.to_json()))

    tensorstore_utils.ts = _Mended(
        tensorstore,
        experimental_collect_matching_metrics=lambda prefix: given_back(collect(prefix)),
        KvStore=_Mended(kvstore, Spec=spec),
    )


def python_bytes() -> int:
    """Return the bytes of the objects in Python's own arenas, which CPython prints to stderr."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        sys._debugmallocstats()
        os.dup2(kept, 2)
        os.close(kept)
        file.seek(0)
        (found,) = re.findall(rb"# bytes in allocated blocks\s*=\s*([\d,]+)", file.read())
    return int(found.replace(b",", b""))


def measure(kind: str, checkpoints: int) -> dict[str, float]:
    """Train; return what a checkpoint (or validation) adds, from a quarter of them to the end."""
    if kind == "references given back":
        mend()
    counts = {}
    dispatched = StepRecorder.dispatched

    def counting(self, step, *args, **kwargs):
        dispatched(self, step, *args, **kwargs)
        if step in (EVERY * (checkpoints // 4), EVERY * checkpoints):
            gc.collect()
            counts[step] = sys.getallocatedblocks(), python_bytes()

    StepRecorder.dispatched = counting
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "small.txt"
        text.write_text(small_text())
        never, steps = 10**8, EVERY * checkpoints
        fields = {"checkpoint_every": EVERY, "eval_every": EVERY, "log_every": 1000}
        if kind == "no checkpoints":
            fields["checkpoint_every"] = never
        run(
            toy_config(steps=steps, data__paths=(str(text),), **fields),
            Path(folder) / "run",
            quiet=True,
        )
    (objects, size), (objects_after, size_after) = counts.values()
    number = checkpoints - checkpoints // 4
    return {
        "objects": round((objects_after - objects) / number, 1),
        "kib": round((size_after - size) / number / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=400)
    parser.add_argument("--only", choices=KINDS, help="measure one kind in this process")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    flags = parser.parse_args()
    if flags.only:
        print(json.dumps(measure(flags.only, flags.checkpoints)))
        return
    rows = {}
    for kind in KINDS:
        command = [sys.executable, "-m", "tests.train.growth", f"--only={kind}"]
        command.append(f"--checkpoints={flags.checkpoints}")
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows[kind] = json.loads(out.splitlines()[-1])
        print(f"{kind:24} {rows[kind]}", flush=True)
    if flags.json:
        from eval.log import device_description, versions

        result = {
            "command": f"python -m tests.train.growth --checkpoints {flags.checkpoints}",
            "per_checkpoint": rows,
            "device": device_description(),
            "versions": versions() | {"tensorstore": importlib.metadata.version("tensorstore")},
        }
        flags.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
