"""Training from Python: `train_text_corpus` and `text_config`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jaxmodels
from train.config import apply_overrides, complete_config, validate_config
from train.loop import RunResult, run


def text_config(model: str = "prernk", changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """Return a complete experiment config for a model, including the model's own config.

    Args:
      model: "system" or "system/preset".
      changes: values by dotted field, e.g. {"steps": 500, "optimizer.learning_rate": 1e-2,
        "model_config.hidden_size": 128}.

    Raises:
      UserError: unknown model or field, wrong type or value.
    """
    dtype = getattr(jaxmodels.make_config(model), "dtype", "float32")
    config = complete_config({"model": model, "dtype": dtype})
    for name, value in (changes or {}).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        apply_overrides(config, [f"--config.{name}={text}"])
    validate_config(config)
    return config


def train_text_corpus(
    paths: Sequence[str | Path] | str | Path = (),
    *,
    workdir: str | Path,
    config: ConfigDict | None = None,
    model: str = "prernk",
    changes: Mapping[str, Any] | None = None,
    resume: bool = False,
    quiet: bool = True,
) -> RunResult:
    """Train a model on text files, as `python -m train` does.

    Args:
      paths: files, folders or globs; none = the packaged corpus.
      workdir: run folder; `train.io.checkpoint.load_model(workdir)` reads the result.
      config: complete config; default `text_config(model, changes)`.
      model, changes: arguments of `text_config`, exclusive with `config`.
      resume: continue the run in `workdir`.
      quiet: print nothing.

    Raises:
      UserError: invalid config, data, folder or checkpoint.
    """
    if config is not None and changes is not None:
        raise TypeError("give either config or changes")
    config = text_config(model, changes) if config is None else complete_config(config)
    paths = (paths,) if isinstance(paths, str | Path) else tuple(paths)
    if paths:
        config.data.paths = tuple(str(path) for path in paths)
    return run(config, workdir, resume=resume, quiet=quiet)
