"""Runs in processes of their own: killed without warning, and two that train as one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.corpus import small_text
from tests.train.kill_script import KINDS, assert_same, kill_and_resume
from train.io.log import read_metrics


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")


def test_killed_and_resumed_run_is_bit_identical(tmp_path):
    calm, killed = kill_and_resume(tmp_path, kills=1, seed=1, steps=100)
    assert_same(calm, killed)
    lines = (killed / "metrics.jsonl").read_text()
    (killed / "metrics.jsonl").write_text(lines.replace('"step": 4', '"step": 5'))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(calm, killed)


@pytest.mark.slow
def test_ended_twenty_times(tmp_path):
    """By kills, stop signals and full disks in turn."""
    assert_same(*kill_and_resume(tmp_path, kills=20, seed=0, steps=200, kinds=KINDS))


CONFIG = """
from tests.train.toy import toy_config
def get_config():
    return toy_config(steps=8, eval_every=4, checkpoint_every=4, log_every=2)
"""


@pytest.mark.parametrize(
    ("each", "fields"),
    [
        (1, ["parallel=pmap"]),
        pytest.param(1, ["parallel=shard_map"], marks=pytest.mark.slow),
        pytest.param(2, ["parallel=shard_map", "mesh.fsdp=2"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_two_processes_match_one(tmp_path, each, fields):
    """Loopback, gloo: the same curve as one process with as many devices; only the first writes."""
    (tmp_path / "toy.py").write_text(CONFIG)
    (tmp_path / "small.txt").write_text(small_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    root = str(Path(__file__).parents[3])

    def start(workdir, devices, *arguments):
        flags = f"--xla_force_host_platform_device_count={devices}"
        command = [
            sys.executable,
            "-m",
            "train",
            "--config=toy.py",
            f"--workdir={workdir}",
        ]
        command += [f"--config.{field}" for field in fields]
        command += ["--data", "small.txt", *arguments]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pair(*arguments):
        two = [f"--coordinator={address}", "--num-processes=2"]
        processes = [start("both", each, *two, f"--process-id={i}", *arguments) for i in range(2)]
        try:
            for process in processes:
                out, _ = process.communicate(timeout=200)
                assert process.returncode == 0, out
        finally:
            for process in processes:
                process.kill()

    pair()
    one = start("one", 2 * each)
    out, _ = one.communicate(timeout=200)
    assert one.returncode == 0, out
    both, alone = read_metrics(tmp_path / "both"), read_metrics(tmp_path / "one")
    assert len(both) == len(alone) == 4 + 2 + 1
    for got, want in zip(both, alone, strict=True):
        for name in want.keys() - {"digest", "split"}:
            assert got[name] == pytest.approx(want[name], rel=1e-5, abs=1e-6), (name, want["step"])

    # A checkpoint of two processes resumes in two, and in one.
    pair("--resume", "--config.steps=9")
    assert read_metrics(tmp_path / "both")[-1]["step"] == 9
    further = start("both", 2 * each, "--resume", "--config.steps=10")
    out, _ = further.communicate(timeout=200)
    assert further.returncode == 0, out
    assert read_metrics(tmp_path / "both")[-1]["step"] == 10
