"""Packages of PyPI that train the same kind of model, each in a process of its own.

They live in an environment of their own (`.venv-peers`, made on first use): what they ask for is
not ours to install. A worker waits for "run", makes one training step and answers its seconds, so
that `measure` can run it in turns with our own experiments.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-peers"
WORKER = Path(__file__).with_name("peer_worker.py")
PACKAGES = (
    "torch==2.13.0",
    "transformers==5.24.0",
    "mambapy==1.2.0",
    "einops==0.8.1",  # mambapy imports it without asking for it
    "mamba2-jax==1.1.2",
)
PEERS = (
    "transformers mamba2",
    "transformers rwkv",
    "transformers gpt2",
    "mambapy mamba1",
    "mamba2-jax",
)


class Peer:
    """The training step of a peer; see `measure.Experiment`.

    Attributes:
      parameters: all of the peer's (its embedding and head too), as it counts them.
    """

    temp_bytes = 0  # not known

    def __init__(self, name: str, sizes: tuple[int, ...]):
        self.name = name
        command = [str(FOLDER / "bin" / "python"), str(WORKER), name, *map(str, sizes)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        self.parameters = ready["parameters"]
        self.compile_seconds = ready["first_step_seconds"]
        self.tokens = sizes[0] * sizes[1]
        self.flops = 6 * ready["matmul_parameters"] * self.tokens

    def __call__(self) -> float:
        """Runs one step; returns seconds."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            last = self.process.stderr.read().strip().split("\n")[-1]
            raise UserError(f"--peers: {self.name} ended: {last}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the worker."""
        self.process.stdin.close()
        self.process.wait()


def start_peers(names: list[str], *sizes: int) -> dict[str, Peer]:
    """Workers for the named peers; sizes: batch, time, vocab, width, layers.

    Raises:
      UserError: an unknown peer, or one that cannot be installed or started.
    """
    for name in names:
        if name not in PEERS:
            raise UserError(f"--peers: no {name!r}{did_you_mean(name, PEERS)}")
    if names:
        _install()
    peers = {}
    for name in names:
        print(f"starting {name}", file=sys.stderr, flush=True)
        peers[name] = Peer(name, sizes)
    return peers


def _install() -> None:
    stamp = FOLDER / ".installed"
    wanted = "\n".join(PACKAGES)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"installing {', '.join(PACKAGES)} into {FOLDER.name}", file=sys.stderr, flush=True)
    venv.create(FOLDER, with_pip=True)
    command = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES]
    if subprocess.run(command, check=False).returncode:
        raise UserError("--peers: pip could not install them; see above")
    stamp.write_text(wanted)
