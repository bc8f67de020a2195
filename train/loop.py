"""The training loop: step, log, validate, checkpoint, and shut down cleanly."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmodels.cli import write_atomically, write_json
from jaxmodels.data.tokenizers.folder import files_of, is_read
from jaxmodels.errors import DiskError, UserError, disk_remedy
from jaxmodels.models.contract import main_term, traits_of
from jaxmodels.paths import exists, user_path
from jaxmodels.tree import flatten, unflatten
from train.config import to_json, validate_config
from train.control.controller import Controller
from train.control.monitor import ComponentMonitor
from train.devices.memory import check_memory
from train.devices.placement import Placement
from train.devices.processes import raise_everywhere
from train.devices.signals import Signals
from train.io.checkpoint import load_init_weights, load_model, restore, saved_steps
from train.io.lock import Writer, one_run
from train.io.log import RunLog, digest, float32_repr, keep_log, read_metrics
from train.io.progress import ProgressLine, describe
from train.io.saving import Checkpoints
from train.io.steps import IN_FLIGHT, MetricsQueue, StepRecorder, total_terms
from train.model import described
from train.optim.build import resolve_warmup
from train.step import TrainState, component_names
from train.tasks import Task, open_task
from train.tasks.features import with_features
from train.tasks.lengths import lengths_of
from train.tasks.task import check_labels
from train.tuning.base import Base, check_tokenizer, open_base, with_base_of, with_weights

EXIT_STATUS = {"finished": 0, "stopped": 0, "halted": 3, "interrupted": 130}  # by RunResult.status


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The outcome of a run.

    Attributes:
      status: "finished", "stopped" (by the controller), "interrupted" (by a signal) or "halted"
        (NaN or Inf).
      step: number of updates applied; that state is saved.
      message: step and component if "halted"; the controller's reason if "stopped".
      valid: metrics of the last validation of this call, empty if there was none.
      digest: SHA-256 over state and data position if "finished" or "stopped", else "".
    """

    status: str
    step: int
    message: str = ""
    valid: dict[str, float] = dataclasses.field(default_factory=dict)
    digest: str = ""


def run(
    config: ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> RunResult:
    """Train an experiment; the README lists the files that it writes to `workdir`.

    Args:
      config: complete config (`load_config`).
      workdir: run folder, created if absent.
      resume: continue from the newest intact checkpoint (from the start if there is none yet).
        Without it, a folder that holds a run is refused.
      quiet: print nothing.
      devices: devices to run on; default all.

    Raises:
      UserError: invalid config, data, folder or checkpoint.
    """
    with one_run(workdir) as writer, contextlib.ExitStack() as opened:
        workdir = user_path(workdir, "--workdir=")
        return _run(config, workdir, resume, quiet, devices, writer, opened)


def _run(
    config: ConfigDict,
    workdir: Path,
    resume: bool,
    quiet: bool,
    devices: Sequence[jax.Device] | None,
    writer: Writer | None,
    opened: contextlib.ExitStack,
) -> RunResult:
    """Run as the only writer of the folder (None in processes that do not write)."""
    task, placement, monitor, base = raise_everywhere(
        lambda: _open(config, workdir, resume, devices)
    )
    config, iterator = task.config, iter(task.train)
    state, step, notes = _first_state(task, workdir, resume, placement, iterator, base)
    del base  # its weights are in the state
    raise_everywhere(lambda: _write_inputs(workdir, task))
    raise_everywhere(lambda: _check_shared(workdir))
    past = _logged_before(workdir, step) if config.control.enabled else []
    line = ProgressLine(config.steps, step, quiet)
    opened.callback(line.close)
    if resume and step == 0:
        first = min(config.checkpoint_every or config.steps, config.steps)
        raise_everywhere(lambda: keep_log(workdir, first, line.say))
    log = raise_everywhere(lambda: RunLog(workdir, step, line.say))
    opened.callback(_unless_refused, log.close)
    controller = Controller(config, task.steps_per_epoch, past, monitor, log.write, line.say)
    recorder = StepRecorder(task, log, line, controller.add, step)
    queue = MetricsQueue(component_names(state), iterator.get_state(), recorder.record)
    checkpoints = Checkpoints(workdir, config, task.fingerprint, newest=step)
    opened.callback(_unless_refused, checkpoints.close)
    for note in (*task.notes, *notes):
        line.say(note)
    fresh_carry, start = placement.fresh_rows(), step
    valid, interrupted = {}, False
    try:
        with Signals() as signals, jax.transfer_guard("disallow"):
            while step < config.steps and not (interrupted or controller.stopped):
                state, metrics = placement.step(state, placement.put_rows(next(iterator)))
                step += 1
                queue.push(step, metrics, iterator.get_state())
                recorder.dispatched(step, metrics, first=step == start + 1)
                checkpoints.check()
                interrupted = signals.stop_requested(step % config.log_every == 0)
                validate_now = config.eval_every and _due(step, config.eval_every, config.steps)
                save_now = _due(step, config.checkpoint_every, config.steps) or interrupted
                save_now = save_now or step in config.keep_steps
                queue.drain(keep=0 if validate_now or save_now else IN_FLIGHT)
                if queue.failure:
                    return _halt(queue, state, valid, placement, iterator, log, checkpoints)
                if validate_now:
                    valid = evaluate(placement, state, task, fresh_carry)
                    log.write(step, "valid", valid)
                    line.say(f"step {step}  validation: {describe(valid)}")
                    state = controller.after_validation(step, valid, state, placement)
                    recorder.clock.restart(step)
                if save_now or controller.stopped:
                    if writer is not None:
                        writer.check()
                    loss = valid["loss"] if validate_now else None
                    _save(checkpoints, log, step, placement, state, iterator, loss)
        checkpoints.wait()  # the last line of the log promises that the last state is saved
        if interrupted and step < config.steps and not controller.stopped:
            return RunResult("interrupted", step, valid=valid)
        final = digest(placement.global_form(state), queue.position, placement.fetch)
        log.final(step, final, controller.stopped)
        log.flush()
        status = "stopped" if controller.stopped else "finished"
        return RunResult(status, step, controller.stopped, valid, final)
    except UserError as error:
        raise _resumable(error, checkpoints) from error


def _open(
    config: ConfigDict, workdir: Path, resume: bool, devices: Sequence[jax.Device] | None
) -> tuple[Task, Placement, ComponentMonitor | None, Base | None]:
    """Open data, devices and base; reject every mismatch before anything is computed."""
    _refuse_occupied(workdir, resume)
    validate_config(config)
    base = open_base(config, load_model)
    task = open_task(with_base_of(config, base))
    task = dataclasses.replace(task, config=resolve_warmup(task.config))
    check_tokenizer(task.config, task.corpus.tokenizer)
    placement = Placement(task.config, devices)
    template = placement.template()
    check_memory(template)
    model = template.model
    task = with_features(task, model)
    check_labels(task, traits_of(model).label_fields)
    if check_data := traits_of(model).check_data:
        lengths = {config.seq_len, *(length.seq_len for length in lengths_of(config))}
        for seq_len in lengths:
            check_data(config.data, seq_len, task.label_classes)
    monitor = ComponentMonitor(config, model, task.corpus) if config.control.watch else None
    return task, placement, monitor, base


def _first_state(
    task: Task,
    workdir: Path,
    resume: bool,
    placement: Placement,
    iterator: Any,
    base: Base | None,
) -> tuple[TrainState, int, list[str]]:
    """Return (initial or restored state on the devices, its step, notes for the user)."""
    config, notes = task.config, []
    if resume:
        template = placement.template()
        state = restore(workdir, config, template, iterator, task.fingerprint, notes.append)
        if state is not None:
            step = int(state.step)
            if step > config.steps:
                raise UserError(
                    f"config.steps: {workdir} is already at step {step}, beyond {config.steps}"
                )
            state = state.replace(model=with_weights(state.model, base))
            return placement.put_state(state), step, [*notes, f"resuming from step {step}"]
        notes.append("no whole checkpoint: from the start")
    if base is not None:
        notes.append(described(config))
    state = placement.fresh_state()
    state = state.replace(model=with_weights(state.model, base))
    if config.init_from:
        state = load_init_weights(config.init_from, state)
    return state, 0, notes


def _halt(queue, state, valid, placement, iterator, log, checkpoints) -> RunResult:
    """Save `state`, the last good one: the step itself discarded the failed update."""
    step = int(jax.device_get(state.step))
    iterator.set_state(queue.position)
    log.stop(step + 1, queue.failure)
    leaves = flatten(state.model).values()
    if step > checkpoints.newest and all(np.isfinite(jax.device_get(x)).all() for x in leaves):
        _save(checkpoints, log, step, placement, state, iterator, None)
    checkpoints.wait()
    return RunResult("halted", step, queue.failure, valid)


def _unless_refused(close: Callable[[], None]) -> None:
    """Close what a full disk may refuse to close; the error itself was raised before."""
    with contextlib.suppress(DiskError):
        close()


def _resumable(error: UserError, checkpoints: Checkpoints) -> UserError:
    """Add to what a disk has refused what is saved, and how to go on."""
    if not isinstance(error, DiskError):
        return error
    whole = checkpoints.committed()
    saved = f"the checkpoint of step {whole} is whole" if whole else "nothing is saved yet"
    remedy = disk_remedy(str(error))
    return DiskError(f"{error}; {saved}; {remedy} and continue with --resume")


def _save(checkpoints, log, step, placement, state, iterator, loss: float | None) -> None:
    log.flush()  # the log on the disk must not lag behind the checkpoint
    with jax.transfer_guard("allow"):
        checkpoints.save(step, placement.global_form(state), iterator, loss)


def evaluate(placement: Placement, state: TrainState, task: Task, carry: Any) -> dict[str, float]:
    """Return the mean of each loss term over the validation batches, carrying the state across.

    Uses the EMA parameters if the run keeps them. `loss` is the main term, usually next-token nats;
    `bits_per_byte` divides by bytes of text, if there is text, also for word tokenizers.
    """
    model = state.model
    if state.ema is not None:
        model = unflatten(model, flatten(model) | state.ema)
    sums, counts = total_terms(_batch_sums(placement, model, task.valid, placement.put_rows(carry)))
    means = {name: float32_repr(sums[name] / max(counts[name], 1.0)) for name in sums}
    main = main_term(model)
    values = {"loss": means[main]}
    if main == "next_token" and task.valid_bytes:
        values["bits_per_byte"] = float32_repr(sums[main] / math.log(2) / task.valid_bytes)
    return values | means


def _batch_sums(placement: Placement, model: Any, batches: Iterable, carry: Any):
    for batch in batches:
        carry, *parts = placement.eval_step(model, carry, placement.put_rows(batch))
        yield parts


def _due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps


def _logged_before(workdir: Path, step: int) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl up to `step`, at which the run resumes."""
    if not (step and (workdir / "metrics.jsonl").exists()):
        return []
    return [line for line in read_metrics(workdir) if line["step"] <= step]


def _refuse_occupied(workdir: Path, resume: bool) -> None:
    if resume or jax.process_index() != 0:
        return
    names = ("config.json", "metrics.jsonl")
    if saved_steps(workdir) or any(exists(workdir / name, "--workdir=") for name in names):
        raise UserError(
            f"--workdir={workdir}: already holds a run; add --resume to continue it, "
            "or name another folder"
        )


def _write_inputs(workdir: Path, task: Task) -> None:
    """Write config.json and the tokenizer for evaluation, and data.json for the report."""
    if jax.process_index() != 0:
        return
    write_atomically(workdir / "config.json", to_json(task.config))
    name = task.config.data.tokenizer
    source = name if is_read(name) else None
    for file, text in files_of(task.corpus.tokenizer, source).items():
        write_atomically(workdir / file, text)
    write_json(workdir / "data.json", task.described())


def _check_shared(workdir: Path) -> None:
    """Reject a folder without the file that process 0 has written."""
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"--workdir={workdir}: not the folder that process 0 writes to; it must be on a disk "
            "that all hosts share"
        )
