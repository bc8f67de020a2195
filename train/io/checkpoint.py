"""Checkpoints: Orbax for arrays, Grain for the data position, checksums for integrity.

    checkpoints/<step>/model, training, data    written asynchronously, committed by one rename
    checkpoints/<step>/manifest.json            size and SHA-256 of each file, written after that

Arrays are stored under readable names (`model/cell/gate/kernel`), the carried state in global form
(batch_size, ...), so a checkpoint restores onto another number of devices or processes. The newest
intact one is restored; damaged ones, and folders that are none, are moved to `damaged/` and
reported. A checkpoint without a manifest was committed just before the run was killed: Orbax's
rename guarantees that it is whole. `saving.py` writes them.
"""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from jaxmodels.cli import choose_from
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json
from jaxmodels.models.contract import parameters_of
from jaxmodels.paths import user_path
from jaxmodels.tree import Flat, flatten, nest, unflatten, unnest
from train.config import complete_config, differences, may_change, with_tuples
from train.devices.processes import raise_everywhere
from train.io.log import ASIDE
from train.io.manifest import find_corruption, why_no_checkpoint
from train.model import build_model
from train.step import TrainState
from train.tuning.base import open_base, with_weights

FORMAT = 1
PyTree = Any


def items_of(state: TrainState) -> dict[str, Any]:
    """Return what a checkpoint stores of a state, by the name of its folder.

    Of a model, these are the arrays that training changes.
    """
    training = nest(state.replace(model=(), ema=None, halted=()))
    items = {"model": _nested(parameters_of(state.model)), "training": training}
    return items | ({"ema": nest(state.ema)} if state.ema is not None else {})


def saved_steps(workdir: Path) -> list[int]:
    """Return the steps of the committed checkpoints, intact or not, ascending."""
    folder = Path(workdir) / "checkpoints"
    names = (p.name for p in folder.glob("*") if p.name.isdecimal() and p.is_dir())
    return sorted(int(name) for name in names if name == str(int(name)))  # not "007"


def restore(
    workdir: Path,
    config: ConfigDict,
    template: TrainState,
    iterator,
    fingerprint: str,
    say: Callable[[str], None] = print,
) -> TrainState | None:
    """Restore the newest intact checkpoint and set the iterator to its position.

    Args:
      workdir, config: folder and config of the resumed run.
      template: state in global form, as `ShapeDtypeStruct`s; each leaf is read shard by shard into
        its struct's sharding, or onto every device if that is None.
      iterator: training iterator, or None.
      fingerprint: hash of the current corpus.
      say: called with a message for each damaged checkpoint.

    Returns:
      The state in global form, or None if the run has no checkpoint yet. Arrays of the model that
      training does not change are those of the template.

    Raises:
      UserError: the checkpoint has another model, config, format or text; or all are damaged.
    """
    _put_aside(Path(workdir), _no_checkpoints(Path(workdir)), say)
    steps = saved_steps(workdir)
    reason = ""
    for step in reversed(steps):
        path = Path(workdir).absolute() / "checkpoints" / str(step)
        reason = _agreed(find_corruption(path)) or ""
        if not reason:
            try:
                return _load(path, config, template, iterator, fingerprint)
            except UserError:
                raise
            except Exception as error:  # Orbax has no common class for unreadable checkpoints
                if jax.process_count() > 1:
                    raise
                reason = f"unreadable ({type(error).__name__})"
                _hush()
        _put_aside(Path(workdir), {path: f"damaged, {reason}"}, say)
    if steps:
        raise UserError(
            f"{workdir}/checkpoints: none of its {len(steps)} checkpoints is whole "
            f"(oldest: {reason}); start again in another --workdir"
        )
    return None


def _agreed(reason: str | None) -> str | None:
    """Return process 0's verdict, in every process."""
    if jax.process_count() == 1:
        return reason
    bad = multihost_utils.broadcast_one_to_all(np.int32(reason is not None))
    return (reason or "found by another process") if bad else None


def _no_checkpoints(workdir: Path) -> dict[Path, str]:
    """Return the folders of steps that hold no checkpoint, and why.

    They are looked for among all steps: Orbax, which reads the metadata of each, would fail.
    """
    paths = [workdir.absolute() / "checkpoints" / str(step) for step in saved_steps(workdir)]
    reasons = {path: why_no_checkpoint(path) for path in paths}
    return {path: reason for path, reason in reasons.items() if reason}


def _put_aside(workdir: Path, paths: Mapping[Path, str], say: Callable[[str], None]) -> None:
    """Move folders out of the way in process 0, and wait for that in the others."""
    if jax.process_index() == 0:
        for path, reason in paths.items():
            target, number = workdir / ASIDE / path.name, 1
            while target.exists():
                target, number = target.with_name(f"{path.name}.{number}"), number + 1
            say(f"checkpoint {path.name} is passed over ({reason}) and put aside in {ASIDE}/")
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("put aside")


def _load(path: Path, config, template: TrainState, iterator, fingerprint: str) -> TrainState:
    items = items_of(template)
    raise_everywhere(lambda: _check(path, config, items, fingerprint))
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), "all"), PartitionSpec())
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or everywhere), items
    )
    grain_file = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
    same_count = (path / "data" / grain_file).exists()
    if iterator is not None and same_count:
        abstract["data"] = iterator
    loaded = ocp.load_checkpointables(path, abstract)
    if iterator is not None and not same_count:
        # Another number of processes wrote it; positions count steps, the same in all.
        file = sorted((path / "data").glob("process_0-of-*.json"))[0]
        iterator.set_state(decode_json(file.read_text()))
    training = unnest(template.replace(model=(), ema=None, halted=()), loaded["training"])
    return training.replace(
        model=_with_parameters(template.model, loaded["model"]),
        ema=None if template.ema is None else unnest(template.ema, loaded["ema"]),
        halted=np.int32(-1),
    )


def _nested(params: Flat) -> dict[str, Any]:
    return unflatten_dict(params, sep="/")


def _with_parameters(model: PyTree, nested: PyTree) -> PyTree:
    return unflatten(model, flatten(model) | flatten_dict(nested, sep="/"))


def _check(path: Path, config, items: dict[str, Any], fingerprint: str) -> None:
    """Raise unless the checkpoint belongs to this experiment."""
    metadata = _metadata(path)
    check_info(metadata.custom_metadata, config, path)
    if metadata.custom_metadata["data"] != fingerprint:
        raise UserError(
            f"config.data.paths: not the text that {path} was trained on; "
            "give the same files with --data"
        )
    for name, item in items.items():
        if not metadata.metadata.get(name):  # Orbax only logs a read failure
            raise OSError(f"{name} is unreadable")
        _check_shapes(item, metadata.metadata[name], name, path)


def _hush() -> None:
    """Keep what Orbax left undone of an unreadable checkpoint from printing tracebacks later.

    It reads arrays in tasks; each failed one but the first, which was raised, is logged when it is
    freed.
    """
    logging.getLogger("asyncio").addFilter(_told)


def _told(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Task exception was never retrieved")


def _metadata(path: Path):
    """Return Orbax's metadata of a checkpoint, without its warning about Grain's item."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return ocp.checkpointables_metadata(path)
    finally:
        logger.setLevel(level)


def check_info(info: dict[str, Any], config: ConfigDict, path: Path) -> None:
    """Raise UserError for a checkpoint of another format or experiment."""
    old = _stored_config(info, path)
    if (config.curriculum or len(config.data.mixture)) and old.steps != config.steps:
        raise UserError(
            f"config.steps: {path} was made with {old.steps}, on which its curriculum or mixture "
            "depends; use that value or another --workdir"
        )
    for name, (before, now) in differences(old, config).items():
        if not may_change(name):
            raise UserError(
                f"config.{name}: {path} was made with {before!r}, not {now!r}; "
                "use its value or another --workdir"
            )


def _stored_config(info: dict[str, Any], path: Path) -> ConfigDict:
    if info.get("format") != FORMAT:
        raise UserError(
            f"{path}: checkpoint format {info.get('format')}, but this version reads format "
            f"{FORMAT}; use the version that wrote it"
        )
    return complete_config(with_tuples(info["config"]), source=str(path), stored=True)


def _check_shapes(expected: PyTree, stored: PyTree, item: str, path: Path) -> None:
    def shapes(tree):
        return {k: tuple(getattr(v, "shape", np.shape(v))) for k, v in flatten(tree).items()}

    model = shapes(expected)
    checkpoint = shapes(jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), stored))
    for name in sorted(model | checkpoint):
        have, want = checkpoint.get(name, "absent"), model.get(name, "absent")
        if have != want:
            raise UserError(
                f"{path}: {item}/{name} is {have} in the checkpoint and {want} in the model; "
                "it was written by another version of the model's code"
            )


@dataclass(frozen=True)
class TrainedModel:
    """A model read from a run, and its provenance.

    Attributes:
      model: the module with its trained (or EMA) parameters; learned additions are merged into
        their base.
      config: the run's config.
      step: number of updates.
      loss: validation loss (nats per token) at that step, or None.
      averaged: True for EMA parameters.
      data: fingerprint of the training text.
    """

    model: PyTree
    config: ConfigDict
    step: int
    loss: float | None
    averaged: bool
    data: str


def load_model(
    workdir: str | Path,
    which: str | int = "best",
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    base: str | Path | None = None,
) -> TrainedModel:
    """Read a trained model for evaluation and sampling, without changing the run folder.

    Only the chosen checkpoint is hashed; if damaged, the next best or previous one is read.

    Args:
      workdir: run folder.
      which: "best" (lowest validation loss among those kept), "last", or a step.
      say: called with a message for each damaged checkpoint.
      base: folder of the base of a tuned model; None = where it was in training.

    Raises:
      UserError: no such run or checkpoint, none that is intact, or another base.
    """
    folder = user_path(workdir).absolute() / "checkpoints"
    steps = saved_steps(folder.parent)
    if not steps:
        raise UserError(f"{folder.parent}: holds no checkpoint; give the --workdir of a run")
    for step in _by_preference(folder, steps, which):
        path = folder / str(step)
        reason = find_corruption(path) if path.is_dir() else "removed by the run in the meantime"
        if reason is None:
            try:
                return _read_model(path, step, base)
            except UserError:
                raise
            except Exception as error:  # Orbax has no common class for what it finds unreadable
                reason = f"unreadable, {type(error).__name__}"
                _hush()
        say(f"checkpoint {step} is passed over ({reason})")
    if which in ("best", "last"):
        raise UserError(f"{folder}: none of its {len(steps)} checkpoints is whole")
    known = choose_from(map(str, steps))
    raise UserError(f"{folder}: no whole checkpoint of step {which}{known}")


def _by_preference(folder: Path, steps: Sequence[int], which: str | int) -> list[int]:
    if which == "best":
        losses = {step: _validation_loss(folder / str(step)) for step in steps}
        return sorted(steps, key=lambda s: (math.inf, -s) if losses[s] is None else (losses[s], s))
    if which == "last":
        return sorted(steps, reverse=True)
    return [step for step in steps if step == int(which)]


def _read_model(path: Path, step: int, folder: str | Path | None) -> TrainedModel:
    metadata = _metadata(path)
    info = metadata.custom_metadata
    config = _stored_config(info, path)
    if folder is not None:
        if not config.tune.kind:
            raise UserError(f"--base={folder}: {path} is no tuned model, it has no base")
        config.tune.base = str(folder)
    base = open_base(config, load_model)
    model = build_model(config)
    item = "ema" if "ema" in metadata.metadata else "model"
    leaves = _nested(parameters_of(model))
    _check_shapes(leaves, metadata.metadata[item], item, path)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), leaves
    )
    loaded = ocp.load_checkpointables(path, {item: abstract})[item]
    model = with_weights(_with_parameters(model, loaded), base)
    if config.tune.kind == "lora":
        model = model.merged()
    return TrainedModel(model, config, step, info.get("loss"), item == "ema", info["data"])


def _validation_loss(path: Path) -> float | None:
    """Read the loss from JSON alone; Orbax would open the arrays as well."""
    try:
        return decode_json((path / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged, as `find_corruption` will say


def load_init_weights(workdir: str | Path, state: Any) -> Any:
    """Replace a fresh state's weights and EMA by another run's last; raise UserError if unfit."""
    try:
        trained = flatten(load_model(workdir, "last").model)
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    fresh = flatten(state.model)
    for name in sorted(trained.keys() | fresh.keys()):
        shapes = [tree[name].shape if name in tree else "absent" for tree in (trained, fresh)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"config.init_from: {name} is {shapes[0]} in {workdir} and {shapes[1]} in this "
                "model; give the same model_config"
            )

    def placed():
        return {n: jax.device_put(jax.device_get(trained[n]), x.sharding) for n, x in fresh.items()}

    # Copy twice: the step donates its inputs, so `model` and `ema` must not share buffers.
    state = state.replace(model=unflatten(state.model, placed()))
    return state if state.ema is None else state.replace(ema=placed())
