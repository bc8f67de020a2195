"""A long text through a trained model, segment by segment, in constant memory.

    python -m eval.stream --workdir=runs/name --data FILE [--tokens 1000000] [--segment 256]
                          [--window 20000] [--checkpoint best|last|STEP]

The state is handed from segment to segment and never reset; the file is read as it is needed, and
from its beginning again when it ends. Writes `stream.json` and `stream.html`
into the run's folder: loss per window of tokens, and the process's largest memory early (after the
first tenth) and late.
"""

import argparse
import json
import math
import resource
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.ops.losses import token_nll

PIECE = 1 << 16  # characters read from the file at a time


@jax.jit
def _segment(model, state, inputs, targets):
    """-> (state, sum of nats)."""
    state, out = model(state, inputs)
    return state, token_nll(out.logits, targets).sum()


def tokens_of(path: Path, tokenizer) -> Iterator[np.ndarray]:
    """The tokens of a text file, a piece at a time, over and over; each array ends a piece.

    Pieces end at line breaks where there are any, so that no word is cut.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or holds no token.
    """
    while True:
        found, rest = 0, ""
        try:
            with open(path, encoding="utf-8") as file:
                while piece := file.read(PIECE):
                    whole, newline, rest = (rest + piece).rpartition("\n")
                    tokens = np.asarray(tokenizer.encode(whole + newline), np.int32)
                    found += len(tokens)
                    yield tokens
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(f"--data {path}: cannot be read ({reason})") from error
        last = np.asarray(tokenizer.encode(rest), np.int32)
        if not found + len(last):
            raise UserError(f"--data {path}: holds no token of this model's vocabulary")
        yield last


def stream(model, pieces: Iterator[np.ndarray], tokens: int, segment: int, window: int) -> dict:
    """Reads so many tokens -> losses by window, nats a token, and memory in bytes.

    The last segment that is not whole is left out.
    """
    state, buffer = model.initial_state(1), np.zeros(0, np.int32)
    losses: list[float] = []
    sums, counted, read, early = 0.0, 0, 0, None
    start = time.perf_counter()
    for _ in range(tokens // segment):
        while len(buffer) <= segment:
            buffer = np.concatenate([buffer, next(pieces)])
        inputs, targets = buffer[None, :segment], buffer[None, 1 : segment + 1]
        buffer = buffer[segment:]
        state, paid = _segment(model, state, inputs, targets)
        sums, counted, read = sums + float(paid), counted + segment, read + segment
        if not math.isfinite(sums):
            raise UserError(f"the loss is not finite any more after {read:,} tokens")
        if counted >= window:
            losses.append(sums / counted)
            sums, counted = 0.0, 0
        if early is None and read >= tokens // 10:
            early = peak_memory()
    return {
        "tokens": read,
        "losses": losses or [sums / max(counted, 1)],
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "peak_bytes_early": early,
        "peak_bytes_late": peak_memory(),
        "tokens_per_second": round(read / (time.perf_counter() - start), 1),
    }


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cli.command()
def main(arguments: list[str]) -> None:
    """Read the text, and print what was found in one line."""
    parser = cli.parser("eval.stream", __doc__, workdir=cli.RUN, checkpoint=True)
    parser.add_argument("--data", required=True, metavar="FILE", help="UTF-8 text")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--segment", type=int, default=256, help="tokens a device call")
    parser.add_argument("--window", type=int, default=20_000, help="tokens a reported loss")
    flags = parser.parse_args(arguments)
    if not 1 <= flags.segment <= flags.tokens or flags.window < 1:
        raise UserError("--segment, --window: at least 1, and a segment no more than --tokens")
    print(_run(flags, shlex.join(["python", "-m", "eval.stream", *arguments]))["says"])


def _run(flags: argparse.Namespace, command: str) -> dict:
    from eval.log import device_description, versions
    from eval.report import figures
    from eval.report.document import Picture, Text, provenance, to_html
    from eval.run import load_trained

    trained, tokenizer = load_trained(flags.workdir, flags.checkpoint)
    pieces = tokens_of(Path(flags.data), tokenizer)
    found = stream(trained.model, pieces, flags.tokens, flags.segment, flags.window)
    losses, grown = found["losses"], found["peak_bytes_late"] - found["peak_bytes_early"]
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    found |= {"loss_first": first, "loss_last": last, "command": command, "step": trained.step}
    found |= {"segment": flags.segment, "window": flags.window, "device": device_description()}
    found["says"] = (
        f"{found['tokens']:,} tokens, {found['tokens_per_second']:,.0f} a second; loss {first:.4f} "
        f"in the first tenth, {last:.4f} in the last, {max(losses):.4f} in the worst window; state "
        f"{found['state_bytes']:,} bytes; peak memory {found['peak_bytes_early'] / 2**20:.1f} MiB "
        f"after a tenth, {grown / 2**20:+.1f} MiB after that"
    )
    found["versions"] = versions()
    folder = Path(flags.workdir)
    cli.write_atomically(folder / "stream.json", json.dumps(found, indent=2) + "\n")
    steps = [(i + 1) * flags.window for i in range(len(losses))]
    figure = figures.curves({"loss": (steps, losses)}, ylabel="loss", xlabel="tokens read")
    caption = "Nats a token, of each window; the state is handed on and never reset."
    blocks = [Text(found["says"], "lead"), Picture(figures.svg(figure, "stream"), caption)]
    blocks += provenance({"checkpoint": f"step {trained.step}"}, **found)
    page = to_html("Stream", blocks, folder.resolve().name)
    cli.write_atomically(folder / "stream.html", page)
    return found


if __name__ == "__main__":
    sys.exit(main())
