"""Read a long text with a trained model, segment by segment, in constant memory.

    python -m eval.stream --workdir=runs/name --data FILE [--tokens 1000000] [--segment 256]
                          [--window 20000] [--checkpoint best|last|STEP]

The state is carried from segment to segment and never reset; the file is read incrementally and
repeated when it ends. Writes `stream.json` and `stream.html` into the run's folder: loss per window
of tokens, and the peak memory of the process after the first tenth and at the end.
"""

import argparse
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
from jaxmodels.data.tokenizers.unknown import Unknown
from jaxmodels.errors import UserError
from jaxmodels.ops.losses import token_nll

PIECE = 1 << 16  # characters read from the file at a time


@jax.jit
def _segment(model, state, inputs, targets):
    """Return the state and the sum of the losses in nats."""
    state, out = model(state, inputs)
    return state, token_nll(out.logits, targets).sum()


def tokens_of(path: Path, tokenizer) -> Iterator[np.ndarray]:
    """Yield the tokens of a text file in pieces, repeating the file for ever.

    Pieces end at line breaks, if there are any, so that no word is cut.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or holds no token.
    """
    while True:
        count, rest = 0, ""
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:  # as training reads it
                while piece := file.read(PIECE):
                    whole, newline, rest = (rest + piece).rpartition("\n")
                    tokens = np.asarray(tokenizer.encode(whole + newline), np.int32)
                    count += len(tokens)
                    yield tokens
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(f"--data {path}: cannot be read ({reason})") from error
        last = np.asarray(tokenizer.encode(rest), np.int32)
        if not count + len(last):
            raise UserError(f"--data {path}: contains no token of this model's vocabulary")
        yield last


def stream(model, pieces: Iterator[np.ndarray], tokens: int, segment: int, window: int) -> dict:
    """Read `tokens` tokens; return the losses per window in nats per token, and memory in bytes.

    A last partial segment is dropped.
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
        state, nats = _segment(model, state, inputs, targets)
        sums, counted, read = sums + float(nats), counted + segment, read + segment
        if not math.isfinite(sums):
            raise UserError(f"the loss became NaN or Inf after {read:,} tokens")
        if counted >= window:
            losses.append(sums / counted)
            sums, counted = 0.0, 0
        if early is None and read >= tokens // 10:
            early = peak_memory()
    return {
        "tokens": read,
        "losses": losses or [sums / max(counted, 1)],
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "weight_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(model)),
        "peak_bytes_early": early,
        "peak_bytes_late": peak_memory(),
        "tokens_per_second": round(read / (time.perf_counter() - start), 1),
    }


def _counted(pieces: Iterator[np.ndarray], unknown: Unknown) -> Iterator[np.ndarray]:
    """Yield the pieces, counting their tokens and the unknown ones."""
    for tokens in pieces:
        unknown.total += len(tokens)
        if unknown.tokenizer.unk is not None:
            unknown.count += int((tokens == unknown.tokenizer.unk).sum())
        yield tokens


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cli.command(prints=True)
def main(arguments: list[str]) -> None:
    """Read the text and print a one-line summary."""
    parser = cli.parser("eval.stream", __doc__, workdir=cli.RUN, checkpoint=True)
    file = {"metavar": "FILE", "action": cli.ExpandPath}
    parser.add_argument("--data", **file, required=True, help="UTF-8 text")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--segment", type=int, default=256, help="tokens per device call")
    parser.add_argument("--window", type=int, default=20_000, help="tokens per reported loss")
    flags = parser.parse_args(arguments)
    if not 1 <= flags.segment <= flags.tokens or flags.window < 1:
        raise UserError("--segment and --window must be at least 1, --segment at most --tokens")
    from train.io.lock import one_writer

    with one_writer(flags.workdir, "python -m eval.stream", role="stream"):
        _run(flags, shlex.join(["python", "-m", "eval.stream", *arguments]))


def _run(flags: argparse.Namespace, command: str) -> None:
    """Read the text, print the summary, and then write the results."""
    from eval.log import device_description, versions
    from eval.report import figures
    from eval.report.document import Picture, Text, provenance, to_html
    from eval.run import load_trained

    trained, tokenizer = load_trained(flags.workdir, flags.checkpoint, flags.base)
    unknown = Unknown(tokenizer)
    pieces = _counted(tokens_of(Path(flags.data), tokenizer), unknown)
    result = stream(trained.model, pieces, flags.tokens, flags.segment, flags.window)
    result["notes"] = list(unknown.notes("the text"))
    losses, growth = result["losses"], result["peak_bytes_late"] - result["peak_bytes_early"]
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    result |= {"loss_first": first, "loss_last": last, "command": command, "step": trained.step}
    result |= {"segment": flags.segment, "window": flags.window, "device": device_description()}
    result["says"] = (
        f"{result['tokens']:,} tokens at {result['tokens_per_second']:,.0f} per second; loss "
        f"{first:.4f} in the first tenth, {last:.4f} in the last, {max(losses):.4f} in the worst "
        f"window; weights {result['weight_bytes']:,} bytes, state {result['state_bytes']:,} bytes; "
        f"peak memory {result['peak_bytes_early'] / 2**20:.1f} MiB after a tenth, "
        f"{growth / 2**20:+.1f} MiB after that"
    )
    print("\n".join([result["says"], *result["notes"]]))  # before it is stored, which may fail
    result["versions"] = versions()
    folder = Path(flags.workdir)
    cli.write_json(folder / "stream.json", result)
    steps = [(i + 1) * flags.window for i in range(len(losses))]
    figure = figures.curves({"loss": (steps, losses)}, ylabel="loss", xlabel="tokens read")
    caption = "Nats per token in each window; the state is carried along and never reset."
    blocks = [Text(result["says"], "lead"), Picture(figures.svg(figure, "stream"), caption)]
    blocks += [Text(note, "missing") for note in result["notes"]]
    blocks += provenance({"checkpoint": f"step {trained.step}"}, **result)
    page = to_html("Stream", blocks, folder.resolve().name)
    cli.write_atomically(folder / "stream.html", page)


if __name__ == "__main__":
    sys.exit(main())
