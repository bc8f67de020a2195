"""Models of experiments, by registered name or by import path."""

import importlib
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.data.tokenizers.folder import is_read
from jaxmodels.errors import UserError
from jaxmodels.models.contract import parameters_of
from train.tuning.base import tuned


def build_model(config: ConfigDict):
    """Build the model of an experiment, initialized from `config.seed`.

    `config.model` is a name for `jaxmodels.create`, or "package.module:factory" for a custom model,
    called as `factory(seed=..., dtype=..., **config.model_config)`; its exceptions propagate. With
    `config.tune`, the model is the wrapper of such a one, which still lacks its base's weights.

    Raises:
      UserError: unknown model, or fields that the model's config rejects.
    """
    fields = model_fields(config)
    if fields.get("vocab_size", 1) == 0:
        raise UserError(
            "config.model_config.vocab_size: 0 (the tokenizer's size) is not resolved yet; set it"
        )
    if ":" in config.model:
        model = _imported(config.model)(seed=config.seed, dtype=config.dtype, **fields)
    else:
        model = jaxmodels.create(config.model, seed=config.seed, dtype=config.dtype, **fields)
    return tuned(model, config)


def described(config: ConfigDict) -> str:
    """Return what a tuned experiment learns, of how much: for people."""
    model = jax.eval_shape(lambda: build_model(config))
    what = {"state": "the initial state", "lora": "low-rank additions"}[config.tune.kind]
    learned = sum(x.size for x in parameters_of(model).values())
    return (
        f"learning {what}: {learned:,} numbers, beside the "
        f"{jaxmodels.count_parameters(model.base):,} of {config.tune.base} "
        f"(SHA-256 {config.tune.fingerprint[:12]}), which are frozen"
    )


def model_fields(config: ConfigDict) -> dict[str, Any]:
    """Return `model_config`, with `seq_len` added if the model has that field."""
    fields = config.model_config.to_dict()
    if ":" not in config.model and hasattr(jaxmodels.make_config(config.model), "seq_len"):
        fields.setdefault("seq_len", config.seq_len)
    return fields


def resolve_vocab(config: ConfigDict, vocab_size: int) -> ConfigDict:
    """Set a `model_config.vocab_size` of 0 to the tokenizer's; raise UserError for a mismatch.

    A model may have more ids than a tokenizer that is read, not fitted: sizes are often rounded up.
    """
    stated = config.model_config.get("vocab_size")
    if stated is None or stated == vocab_size:
        return config
    name = config.data.tokenizer
    if is_read(name) and stated > vocab_size:
        return config
    if stated != 0:
        raise UserError(
            f"config.model_config.vocab_size: {stated}, but the {name!r} "
            f"tokenizer has {vocab_size} tokens; set --config.model_config.vocab_size={vocab_size}"
        )
    resolved = ConfigDict(config.to_dict())
    resolved.model_config.vocab_size = int(vocab_size)
    return resolved


def _imported(path: str):
    module, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"config.model: cannot import {path!r} ({error})") from error
