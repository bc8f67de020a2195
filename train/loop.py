"""A run from first to last step: train, log, validate, save, and end well whatever happens."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.models.contract import main_term, traits_of
from jaxmodels.tree import flatten, unflatten
from train.config.schema import to_json
from train.control.controller import Steering, lowered
from train.control.monitor import Watch
from train.devices.placement import Placement, build_train_step
from train.devices.processes import together
from train.io.checkpoint import Checkpoints, restore, saved_steps
from train.io.log import RunLog, digest, plain
from train.io.progress import ProgressLine, describe
from train.io.warm_start import begin_from
from train.step import TrainState, component_names
from train.tasks.lengths import length_at, lengths_of
from train.tasks.text import Data, open_data

IN_FLIGHT = 2  # steps that the host may be ahead of the devices


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
      status: "finished", "stopped" (by the controller), "interrupted" (by a signal) or "halted"
        (something ceased to be finite).
      step: number of updates applied; that state is saved.
      message: for "halted", the step and the component; for "stopped", the controller's reason.
      valid: metrics of the last validation of this call, empty if there was none.
      digest: of a finished or stopped run, SHA-256 over state and data position; else "".
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
    """Train an experiment in a folder; see the README for what the folder then holds.

    Args:
      config: complete config (`load_config`); `model_config.vocab_size` is resolved in it.
      workdir: folder of the run, made if absent.
      resume: continue from the newest whole checkpoint (from the start if there is none yet).
        Without it a folder that holds a run is refused.
      quiet: print nothing.
      devices: to run on; default all.

    Raises:
      UserError: for whatever is wrong with config, data, folder or checkpoint.
    """
    if "://" in str(workdir):
        raise UserError(f"--workdir={workdir}: must be a folder, one that all hosts share")
    workdir = Path(workdir)

    def prepare():
        _refuse_occupied(workdir, resume)
        data = open_data(config)
        placement = build_train_step(config, devices)
        template = placement.template()
        if check_data := traits_of(template.model).check_data:
            for seq_len in {config.seq_len, *(length.seq_len for length in lengths_of(config))}:
                check_data(config.data, seq_len, data.classes())
        watch = Watch(config, template.model, data.corpus) if config.control.watch else None
        return data, placement, template, watch

    data, placement, template, watch = together(prepare)
    components = component_names(template)
    fresh_carry = placement.fresh_rows()
    iterator = iter(data.train)
    notes: list[str] = []
    state = None
    if resume:
        state = restore(workdir, config, template, iterator, data.fingerprint, notes.append)
    restored, lengths = state is not None, lengths_of(config)
    step = start = int(state.step) if restored else 0
    if step > config.steps:
        raise UserError(f"config.steps: {workdir} is already at step {step}, beyond {config.steps}")
    together(lambda: _write_inputs(workdir, config, data))
    together(lambda: _refuse_unshared(workdir))
    state = placement.put_state(state) if restored else placement.fresh_state()
    if config.init_from and not restored:
        state = begin_from(config.init_from, state)

    steering = Steering(config, data.steps_per_epoch(config), workdir, step)
    log = RunLog(workdir, step)
    line = ProgressLine(config.steps, step, quiet)
    for note in notes:
        line.say(note)
    if resume:
        line.say(f"resuming from step {step}" if restored else "no checkpoint yet: from the start")
    checkpoints = Checkpoints(workdir, config, data.fingerprint)
    last_saved = step if restored else 0
    position = iterator.get_state()
    valid: dict[str, float] = {}
    in_flight: collections.deque = collections.deque()
    clock = _Clock(step)

    def settle(keep: int) -> str:
        """Read the metrics of all but the `keep` newest steps; returns what is not finite."""
        nonlocal position
        while len(in_flight) > keep:
            at, metrics, after = in_flight.popleft()
            halted = int(jax.device_get(metrics["halted"]))
            if halted >= 0:
                in_flight.clear()
                return f"step {at}: {components[halted]} is not finite"
            position = after
            if at % config.log_every == 0 or at == config.steps:
                values = {
                    name: plain(v)
                    for name, v in jax.device_get(metrics).items()
                    if name != "halted"
                }
                if "next_token" in values:
                    bits = data.bits_per_byte(values["next_token"])
                    values |= {name: plain(value) for name, value in bits.items()}
                log.write(at, "train", values)
                steering.add(at, "train", values)
                tokens = config.batch_size * length_at(lengths, at - 1).seq_len
                timing = clock.lap(at, tokens * data.bytes_per_token)
                log.timing(timing)
                line.update(at, values, timing["bytes_per_second"])
        return ""

    def save(loss: float | None) -> None:
        nonlocal last_saved
        log.flush()  # the log on the disk must not lag behind the checkpoint
        with jax.transfer_guard("allow"):
            checkpoints.save(step, placement.global_form(state), iterator, loss)
        last_saved = step

    def steer(state: TrainState) -> TrainState:
        """Ask the controller after a validation, and lower the learning rate if it says so."""
        steering.add(step, "valid", valid)
        if watch:
            with jax.transfer_guard("allow"):
                seen = watch.look(jax.tree.map(placement.fetch, state.model))
            log.write(step, "flag", seen)
            steering.add(step, "flag", seen)
        if step == config.steps:
            return state
        decision, said = steering.decide(step)
        if said:
            log.write(step, "control", said)
            line.say(f"step {step}  controller: {said['action']}, {said['reason']}")
        if decision.lr_factor != 1.0:
            scale = lowered(jax.device_get(state.lr_scale), decision.lr_factor)
            state = state.replace(lr_scale=placement.put_scalar(scale))
        return state

    broken, interrupted = "", False
    try:
        with _StopRequest() as stop, jax.transfer_guard("disallow"):
            while step < config.steps and not (broken or interrupted or steering.stopped):
                batch = placement.put_rows(next(iterator))
                state, metrics = placement.step(state, batch)
                step += 1
                in_flight.append((step, metrics, iterator.get_state()))
                if step == start + 1:
                    jax.block_until_ready(metrics)
                    clock.compiled()
                    line.restart(step)
                elif any(length.start == step - 1 for length in lengths):  # compiled once more
                    clock.restart(step)
                interrupted = stop.agreed(step % config.log_every == 0)
                evaluate_now = config.eval_every and _due(step, config.eval_every, config.steps)
                save_now = _due(step, config.checkpoint_every, config.steps) or interrupted
                broken = settle(0 if evaluate_now or save_now else IN_FLIGHT)
                if evaluate_now and not broken:
                    valid = evaluate(placement, state, data, fresh_carry)
                    log.write(step, "valid", valid)
                    line.say(f"step {step}  validation: {describe(valid)}")
                    state = steer(state)
                    clock.restart(step)
                if (save_now or steering.stopped) and not broken:
                    save(valid["loss"] if evaluate_now else None)
            if broken:
                # The step itself refused the update, so the state is that of the last good step.
                step, failed = int(jax.device_get(state.step)), broken
                iterator.set_state(position)
                log.stop(step + 1, failed)
                if step > last_saved and _finite(state):
                    save(None)
                return RunResult("halted", step, failed, valid)
        if interrupted and step < config.steps and not steering.stopped:
            return RunResult("interrupted", step, valid=valid)
        final = digest(placement.global_form(state), position, placement.fetch)
        log.final(step, final, steering.stopped)
        status = "stopped" if steering.stopped else "finished"
        return RunResult(status, step, steering.stopped, valid, final)
    finally:
        line.close()
        checkpoints.close()
        log.close()


def evaluate(placement: Placement, state: TrainState, data: Data, carry: Any) -> dict[str, float]:
    """Means over the validation batches, the state handed from batch to batch.

    Uses the averaged parameters if the run keeps an average. `loss` is the main term, mostly
    next-token nats; `bits_per_byte` counts real bytes of text, also for a word tokenizer.
    """
    model = state.model if state.ema is None else unflatten(state.model, state.ema)
    carry = placement.put_rows(carry)
    waiting: collections.deque = collections.deque()
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}

    def add() -> None:
        for total, part in zip((sums, counts), jax.device_get(waiting.popleft()), strict=True):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + float(value)

    for batch in data.valid:
        carry, *parts = placement.eval_step(model, carry, placement.put_rows(batch))
        waiting.append(parts)
        if len(waiting) > IN_FLIGHT:
            add()
    while waiting:
        add()
    means = {name: plain(sums[name] / max(counts[name], 1.0)) for name in sums}
    main = main_term(model)
    values = {"loss": means[main]}
    if main == "next_token":
        values["bits_per_byte"] = plain(sums[main] / math.log(2) / data.valid_bytes)
    return values | means


def _due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps


def _finite(state: TrainState) -> bool:
    return all(
        bool(np.isfinite(jax.device_get(leaf)).all()) for leaf in flatten(state.model).values()
    )


def _refuse_occupied(workdir: Path, resume: bool) -> None:
    if resume or jax.process_index() != 0:
        return
    if (
        saved_steps(workdir)
        or (workdir / "config.json").exists()
        or (workdir / "metrics.jsonl").exists()
    ):
        raise UserError(
            f"--workdir={workdir}: already holds a run; add --resume to continue it, "
            "or name another folder"
        )


def _write_inputs(workdir: Path, config: ConfigDict, data: Data) -> None:
    """config.json and tokenizer.json: with the checkpoints, all that evaluation needs."""
    if jax.process_index() != 0:
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("config", to_json(config)),
            ("tokenizer", data.corpus.tokenizer.to_json()),
        ):
            temporary = workdir / f"{name}.json.tmp"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, workdir / f"{name}.json")
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error


def _refuse_unshared(workdir: Path) -> None:
    """Every process looks for what the first has written."""
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"--workdir={workdir}: not the folder that process 0 writes to; it must lie on a disk "
            "that all hosts share"
        )


class _Clock:
    """Seconds and bytes a second between logged steps, without compilation and validation."""

    def __init__(self, step: int):
        self.step, self.time = step, time.perf_counter()
        self.compile_seconds: float | None = None

    def compiled(self) -> None:
        self.compile_seconds = time.perf_counter() - self.time
        self.restart(self.step + 1)

    def restart(self, step: int) -> None:
        self.step, self.time = step, time.perf_counter()

    def lap(self, step: int, bytes_per_step: float) -> dict[str, Any]:
        now = time.perf_counter()
        seconds = max(now - self.time, 1e-9)
        values = {"step": step, "seconds": seconds, "steps": max(step - self.step, 0)}
        values["bytes_per_second"] = values["steps"] * bytes_per_step / seconds
        if self.compile_seconds is not None:
            values["compile_seconds"] = self.compile_seconds
            self.compile_seconds = None
        self.restart(max(step, self.step))
        return values


class _StopRequest:
    """Turns the first SIGINT or SIGTERM into a wish to stop after this step; a second one kills."""

    def __enter__(self):
        self.wished = False
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._wish)
        return self

    def __exit__(self, *_):
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _wish(self, number, frame) -> None:
        del number, frame
        self.wished = True
        self._give_back()

    def agreed(self, now: bool) -> bool:
        """Whether to stop. Several processes, which must stop at one step, agree on it `now`."""
        if jax.process_count() == 1:
            return self.wished
        if not now:
            return False
        with jax.transfer_guard("allow"):
            return bool(np.any(multihost_utils.process_allgather(np.array(self.wished))))
