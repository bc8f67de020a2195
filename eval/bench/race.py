"""`python -m eval.bench race`: validation loss against wall-clock, including compilation.

Each entrant is an experiment config. Its time includes building the model, initialization,
compilation, training and validation. Entrants run one after the other in this process, so the
machine should be idle.
"""

import dataclasses
import time
from pathlib import Path

import jax
from matplotlib.figure import Figure

import jaxmodels
from eval.bench.record import Record
from eval.report.document import Heading, Table, to_terminal
from jaxmodels import cli
from jaxmodels.data import eval_stream, num_target_bytes, split_documents
from jaxmodels.errors import UserError
from train.config import load_config
from train.devices.malloc import keep_freed_memory
from train.devices.placement import Placement
from train.loop import evaluate
from train.model import build_model
from train.step import init_train_state
from train.tasks import open_task

# nanoGPT's CPU recipe in PyTorch on an idle two-core machine: (label, seconds, final loss).
REFERENCE = ("nanoGPT, 0.81M parameters (PyTorch, another run)", 152.0, 1.918)
ENTRANTS = ("configs/race_rwkv4.py", "configs/race_mamba2.py", "configs/race_transformer.py")


@dataclasses.dataclass
class Lap:
    """Seconds since the entrant's start, step, and validation loss in nats per character."""

    seconds: float
    step: int
    loss: float


def race(config, paths: tuple[str, ...], seconds: float, say=print) -> tuple[list[Lap], dict]:
    """Train one entrant up to its number of steps or the time limit; return (laps, facts).

    Args:
      config: a complete experiment config; `eval_every` is the length of a lap in steps.
      paths: the text, split as in `config.data`.
      seconds: limit of wall-clock seconds.
      say: called with one line per lap.

    Raises:
      UserError: an invalid config or text.
    """
    begun = time.perf_counter()
    config.data.paths = tuple(paths)
    data = _split_validation(open_task(config), config)
    config = data.config
    placement = Placement(config, jax.devices()[:1])
    state = init_train_state(build_model(config), config)
    parameters = jaxmodels.count_parameters(state.model)
    carry = jax.device_get(state.model.initial_state(config.batch_size))
    state = placement.put_state(state)
    laps, training, compiled, iterator = [], 0.0, 0.0, iter(data.train)
    step, spent = 0, 0.0
    while step < config.steps and spent < seconds:
        start = time.perf_counter()
        for _ in range(min(config.eval_every, config.steps - step)):
            state, metrics = placement.step(state, placement.put_rows(next(iterator)))
            step += 1
            if step == 1:
                jax.block_until_ready(metrics)
                compiled = time.perf_counter() - begun
                start = time.perf_counter()
            if step % 8 == 0:  # limit the number of steps in flight
                jax.block_until_ready(metrics)
        jax.block_until_ready(metrics)
        training += time.perf_counter() - start
        loss = evaluate(placement, state, data, carry)["loss"]
        spent = time.perf_counter() - begun
        laps.append(Lap(spent, step, loss))
        say(f"  {spent:6.1f} s  step {step}/{config.steps}  validation {loss:.4f}")
    tokens = config.batch_size * config.seq_len
    return laps, {
        "parameters": parameters,
        "first_step_seconds": compiled,
        "tokens_per_second": tokens * max(step - 1, 1) / max(training, 1e-9),
        "tokens": tokens * step,
    }


def _split_validation(data, config):
    """Split the validation text into one part per row of a batch; each starts without context."""
    length = -(-sum(len(document) for document in data.corpus.valid) // config.batch_size)
    parts = split_documents(data.corpus.valid, length)
    valid = eval_stream(parts, batch_size=config.batch_size, seq_len=config.seq_len)
    return dataclasses.replace(data, valid=valid, valid_bytes=num_target_bytes(parts))


def at(laps: list[Lap], seconds: float) -> float | None:
    """Return the latest loss after some seconds; None before the first lap."""
    losses = [lap.loss for lap in laps if lap.seconds <= seconds]
    return losses[-1] if losses else None


def picture(results: dict[str, list[Lap]]) -> Figure:
    """Plot loss against wall-clock, one line per entrant, with the reference as a point."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, laps in results.items():
        axes.plot([lap.seconds for lap in laps], [lap.loss for lap in laps], label=name)
    label, seconds, loss = REFERENCE
    axes.plot([seconds], [loss], "k*", markersize=10, label=label)
    axes.set(xlabel="seconds, with compilation", ylabel="validation loss, nats per character")
    axes.set_ylim(top=min(3.0, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


@cli.command()
def main(arguments: list[str]) -> None:
    """Race the entrants and print their losses at several times."""
    parser = cli.parser("eval.bench race", __doc__)
    parser.add_argument("--data", nargs="+", required=True, help="text, e.g. tinyshakespeare")
    parser.add_argument("--configs", nargs="+", default=ENTRANTS, help="configs of the entrants")
    parser.add_argument("--seconds", type=float, default=160.0, help="time limit of each entrant")
    file = {"metavar": "FILE", "action": cli.NewFile}
    parser.add_argument("--json", **file, help="write laps and facts to this file")
    parser.add_argument("--picture", **file, help="plot the curves (png or svg)")
    args, overrides = cli.parse_with_overrides(parser, arguments)
    results, facts = {}, {}
    if not args.seconds > 0:
        raise UserError(f"--seconds must be positive, got {args.seconds}")
    record = Record("race", arguments)
    keep_freed_memory()
    for path in args.configs:
        config = load_config(path, overrides)
        name = Path(path).stem.removeprefix("race_")
        print(name, flush=True)
        results[name], facts[name] = race(
            config, tuple(args.data), args.seconds, lambda line: print(line, flush=True)
        )
    moments = [m for m in (15, 30, 60, 90, 120, 150) if m <= args.seconds]
    header = ("", *(f"{m} s" for m in moments), "last", "tokens/s", "parameters")
    rows = []
    for name, laps in results.items():
        losses = [at(laps, moment) for moment in moments]
        rows.append([name, *("-" if loss is None else f"{loss:.3f}" for loss in losses)])
        rows[-1] += [
            f"{laps[-1].loss:.3f} at {laps[-1].seconds:.0f} s",
            f"{facts[name]['tokens_per_second']:,.0f}",
            f"{facts[name]['parameters']:,}",
        ]
    title = "validation loss (nats per character) against wall-clock"
    to_terminal([Heading(title), Table(header, rows)], width=120)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}; reference: {REFERENCE}")
    laps = {name: [dataclasses.asdict(lap) for lap in laps] for name, laps in results.items()}
    record.write(args.json, {"laps": laps, "facts": facts})
    if args.picture:
        picture(results).savefig(args.picture, dpi=120)
