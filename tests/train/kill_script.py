"""End a run at random moments, resume it, and compare it with an uninterrupted one.

    python -m tests.train.kill_script [--kills 20] [--seed 0] [--steps 200] [--kinds kill full ...]

Kinds: "kill" (SIGKILL), "term" and "hangup" (SIGTERM, SIGHUP: saved), "full" (a disk that takes no
more at that moment). Compared bit for bit: metrics.jsonl, which ends in the digest over parameters,
optimizer state, carried state and data position; and every array of the last checkpoint.
"""

import argparse
import collections
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.train.corpus import small_text

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "hangup": signal.SIGHUP}
KINDS = (*SIGNALS, *(["full"] if hasattr(resource, "prlimit") else []))
# 0: it had finished; negative: a signal before the first step.
STATUSES = {"kill": (-9, 0), "term": (130, -15, 0), "hangup": (130, -1, 0), "full": (4, 0)}


def start(workdir, text, *arguments):
    command = [sys.executable, "-W", "error"]
    command += ["-W", "ignore:Error writing persistent compilation cache"]  # a full disk
    command += ["-m", "tests.train.run_toy", str(workdir), str(text), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def last_step(workdir) -> int:
    """The last step in the log, which is what a killer can see."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_bytes().count(b"\n") if path.exists() else 0
    return 2 * lines  # logged every second step; validation lines make it a little more


def end(process, kind: str, size: int) -> None:
    """End a process; by "full", files cannot grow beyond `size` bytes from now on."""
    if kind == "full":
        try:
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))
        except ProcessLookupError:  # it has finished
            pass
    else:
        process.send_signal(SIGNALS[kind])


def kill_and_resume(
    folder: Path,
    kills: int,
    seed: int,
    steps: int,
    kinds=("kill",),
    ends=None,
    say=print,
    overrides=(),
) -> tuple[Path, Path]:
    """Return the folders of the uninterrupted and of the killed run; count (kind, status)."""
    ends = collections.Counter() if ends is None else ends
    text = folder / "small.txt"
    text.write_text(small_text())
    arguments = (f"--config.steps={steps}", *overrides)
    calm = start(folder / "calm", text, *arguments)
    out, _ = calm.communicate(timeout=600)
    assert calm.returncode == 0, out
    say(f"undisturbed: {out.strip()}")
    choose = random.Random(seed)
    killed = folder / "killed"
    for kill in range(kills):
        kind = kinds[kill % len(kinds)]
        # Spread the kills over the run, including the start and first steps of a process.
        done = last_step(killed)
        goal = done + choose.randrange(max(2 * (steps - done) // (kills - kill + 1), 1))
        process = start(killed, text, *arguments, "--resume")
        try:
            while last_step(killed) < goal and process.poll() is None:
                time.sleep(0.002)
            time.sleep(choose.random() * 0.1)
            end(process, kind, choose.choice((0, 100, 1000, 10000)))
            out, _ = process.communicate(timeout=600)
        finally:
            process.kill()
            process.wait()
        status = process.returncode
        say(f"{kind} {kill + 1}: at about step {last_step(killed)}, exit status {status}")
        assert status in STATUSES[kind], out
        assert "Traceback" not in out, out
        assert out.count("\n") <= 2, out
        ends[kind, status] += 1
    last = start(killed, text, *arguments, "--resume")
    out, _ = last.communicate(timeout=600)
    assert last.returncode == 0, (last.returncode, out)
    say(f"ended {kills} times: {out.strip()}")
    say(f"(kind, status): {dict(ends)}")
    return folder / "calm", killed


def assert_same(calm: Path, killed: Path) -> None:
    """Every byte of the log and every array of the last checkpoint."""
    import logging

    import numpy as np
    from orbax.checkpoint import v1 as ocp

    from jaxmodels.tree import flatten
    from train.io.checkpoint import saved_steps

    assert (calm / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    assert saved_steps(calm)[-1] == saved_steps(killed)[-1]
    step = str(saved_steps(calm)[-1])
    logging.getLogger("absl").setLevel(
        logging.ERROR
    )  # Orbax warns that Grain's item has no metadata
    import jax

    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = []
    for run in (calm, killed):
        path = run.absolute() / "checkpoints" / step
        stored = ocp.checkpointables_metadata(path).metadata
        abstract = {
            name: jax.tree.map(
                lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), stored[name]
            )
            for name in ("model", "training")
        }
        loaded.append(flatten(ocp.load_checkpointables(path, abstract)))
    assert loaded[0].keys() == loaded[1].keys()
    assert any(name.startswith("training/opt_state") for name in loaded[0])
    for name in loaded[0]:
        np.testing.assert_array_equal(loaded[0][name], loaded[1][name], err_msg=name)
    positions = [(run / "checkpoints" / step / "data").glob("*.json") for run in (calm, killed)]
    assert [p.read_text() for p in positions[0]] == [p.read_text() for p in positions[1]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        end_as = (flags.kills, flags.seed, flags.steps, flags.kinds)
        assert_same(*kill_and_resume(Path(folder), *end_as))
    print("bit-identical: metrics, parameters, optimizer state, carried state, data position")
