"""Peer packages from PyPI that train comparable models, each in its own process.

They are installed in a separate environment (`.venv-peers`, created on first use), which keeps
their dependencies out of ours. A worker runs one training step for each line "run" and prints the
seconds, so that `measure` can interleave it with our own experiments.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".venv-peers"
WORKER = Path(__file__).with_name("worker.py")
PACKAGES = (
    "torch==2.13.0",
    "transformers==5.24.0",
    "mambapy==1.2.0",
    "einops==0.8.1",  # undeclared dependency of mambapy
    "mamba2-jax==1.1.2",
)
PEERS = (
    "transformers mamba2",
    "transformers rwkv",
    "transformers gpt2",
    "mambapy mamba1",
    "mamba2-jax",
)
RNK_PEERS = ("torch rnk float32", "torch rnk bfloat16")


class Peer:
    """Training step of a peer; in place of `measure.Work`.

    Attributes:
      parameters, all_parameters: all parameters of the peer, including embedding and head.
      cpu_seconds: CPU time of the last step, of all threads.
    """

    temp_bytes = 0  # unknown

    def __init__(self, name: str, sizes: tuple[int, ...], threads: int | None = None):
        self.name = name
        # Read by every library of them; without it, each takes what it likes.
        limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        command = [str(FOLDER / "bin" / "python"), str(WORKER), name, *map(str, sizes)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | limits,
        )
        ready = self._answer()
        self.parameters = self.all_parameters = ready["parameters"]
        self.compile_seconds = ready["first_step_seconds"]
        self.tokens = sizes[0] * sizes[1]
        self.flops = 6 * ready["matmul_parameters"] * self.tokens

    def __call__(self) -> float:
        """Run one step and return the seconds."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.cpu_seconds = answer["cpu_seconds"]
        return answer["seconds"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            last = self.process.stderr.read().strip().split("\n")[-1]
            raise UserError(f"--peers: {self.name} ended: {last}")
        return json.loads(line)

    def close(self) -> None:
        """Stop the worker."""
        self.process.stdin.close()
        self.process.wait()


def start_peers(names: list[str], *sizes: int, threads: int | None = None) -> dict[str, Peer]:
    """Start workers for the named peers; sizes: batch, time, vocab, width, layers.

    threads: of each, None for what it takes by default.

    Raises:
      UserError: an unknown peer, or a failed installation or start.
    """
    for name in names:
        if name not in PEERS + RNK_PEERS:
            raise UserError(f"--peers: no {name!r}{did_you_mean(name, PEERS)}")
    if names:
        _install()
    peers = {}
    for name in names:
        print(f"starting {name}", file=sys.stderr, flush=True)
        peers[name] = Peer(name, sizes, threads)
    return peers


def _install() -> None:
    stamp = FOLDER / ".installed"
    packages = "\n".join(PACKAGES)
    if stamp.is_file() and stamp.read_text() == packages:
        return
    print(f"installing {', '.join(PACKAGES)} into {FOLDER.name}", file=sys.stderr, flush=True)
    venv.create(FOLDER, with_pip=True)
    command = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES]
    if subprocess.run(command, check=False).returncode:
        raise UserError("--peers: pip install failed; see above")
    stamp.write_text(packages)
