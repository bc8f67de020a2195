"""Recurrent states as portable files.

    jaxmodels.session.save_session(Session(state, logits, tokens_read=512), model, "s.state")
    session = jaxmodels.session.load_session("s.state", model)

A safetensors file with the arrays of the state by leaf name (`state.0.0.rwkv.wkv`) and optionally
the logits of the next token. Its metadata are the version, the model's config and its hash, the
number of tokens read, the last of them, and a checksum.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from jaxmodels.convert.rows import fill, leaves_of
from jaxmodels.convert.tensors import Tensors, read_safetensors, write_safetensors
from jaxmodels.errors import UserError
from jaxmodels.generation.request import Session
from jaxmodels.json_text import decode_json
from jaxmodels.paths import user_path
from jaxmodels.writing import written_whole

KIND = "jaxmodels recurrent state"
VERSION = 3
# Config fields that change how a model computes or learns, but not the meaning of its state.
FREE_FIELDS = ("dtype", "remat", "remat_chunk", "chunk_size", "l2_wrap", "importance")


def save_session(session: Session, model, path: str | Path) -> None:
    """Write a session to a new file, all or nothing.

    Raises:
      UserError: the file exists or cannot be written, or the state is not float32 (batch, ...).
    """
    path = user_path(path)
    arrays = {f"state.{name}": np.asarray(x) for name, x in leaves_of(session.state).items()}
    if session.logits is not None:
        arrays["logits"] = np.asarray(session.logits)
    batch = {x.shape[:1] for x in arrays.values()}
    wrong = [name for name, x in arrays.items() if x.dtype != np.float32]
    if wrong or len(batch) != 1 or () in batch:
        name = wrong[0] if wrong else "; ".join(sorted(arrays))
        raise UserError(f"{path}: a state must be float32 (batch, ...), {name} is not")
    config, recent = describe(model), " ".join(map(str, session.recent))
    metadata = {
        "kind": KIND,
        "version": str(VERSION),
        "config": json.dumps(config),
        "config_sha256": config_hash(config),
        "batch_size": str(batch.pop()[0]),
        "tokens_read": str(session.tokens_read),
        "drawn": str(session.drawn),
        "recent": recent,
        "sha256": _checksum(arrays, recent),
    }
    with written_whole(path) as temporary:
        write_safetensors(temporary, arrays, metadata)


def load_session(path: str | Path, model) -> Session:
    """Read a session of this model from a file.

    Raises:
      UserError: unreadable, truncated or damaged; not a session; another model, config or
        unsupported version; or arrays that do not fit the model's state.
    """
    path = user_path(path)
    tensors = read_safetensors(path)
    arrays, metadata = _migrated(path, tensors.arrays, tensors.metadata)
    try:
        config = decode_json(metadata["config"])
        batch, read, drawn = (int(metadata[n]) for n in ("batch_size", "tokens_read", "drawn"))
        recent = tuple(map(int, metadata["recent"].split()))
        hashes = metadata["config_sha256"], metadata["sha256"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its metadata are damaged ({error}); save it again") from error
    if hashes != (config_hash(config), _checksum(arrays, metadata["recent"])):
        raise UserError(f"{path}: damaged, the checksum does not match; save or copy it again")
    _check_model(path, config, describe(model))
    logits = arrays.pop("logits", None)
    abstract = jax.eval_shape(lambda: model.initial_state(batch))
    state = fill(abstract, Tensors(path, arrays), "state.")
    logits = None if logits is None else jnp.asarray(logits)
    return Session(state, logits, read, drawn, recent)


def describe(model) -> dict[str, Any]:
    """Return a model's config as a dict, with the name of its system or class as "model"."""
    try:
        return jaxmodels.config_to_dict(model.config)
    except (AttributeError, UserError):  # no config, or none of a model in MODELS
        return {"model": type(model).__name__}


def config_hash(config: dict[str, Any]) -> str:
    """Return the SHA-256 of the config fields that determine the meaning of a state."""
    kept = {name: value for name, value in config.items() if name not in FREE_FIELDS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _check_model(path, saved: dict, expected: dict) -> None:
    saved = _completed(saved)
    if config_hash(saved) == config_hash(expected):
        return
    if saved.get("model") != expected["model"]:
        raise UserError(
            f"{path}: a state of the model {saved.get('model')!r}, not of {expected['model']!r}"
        )
    for name in sorted((saved | expected).keys() - set(FREE_FIELDS)):
        old, new = saved.get(name), expected.get(name)
        if old != new:
            raise UserError(f"{path}: a state of a model with {name}={old!r}; this one has {new!r}")


def _completed(config: dict) -> dict:
    """Return a config with the defaults of the fields that its model did not have yet."""
    try:
        return jaxmodels.config_to_dict(jaxmodels.make_config(config["model"])) | config
    except (KeyError, UserError):  # not of a model in MODELS
        return config


def _checksum(arrays: dict[str, np.ndarray], recent: str = "") -> str:
    digest = hashlib.sha256(recent.encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _from_1(arrays, metadata):
    """Migrate version 1, which had `tokens` for `tokens_read`, and no sampler or checksum."""
    count = metadata.pop("tokens")
    return arrays, metadata | {"tokens_read": count, "drawn": "0", "sha256": _checksum(arrays)}


def _from_2(arrays, metadata):
    """Migrate version 2, which did not have the last ids."""
    return arrays, metadata | {"recent": ""}


# version -> conversion to the next version
MIGRATIONS: dict[int, Callable] = {1: _from_1, 2: _from_2}


def _migrated(path, arrays, metadata):
    if metadata.get("kind") != KIND:
        raise UserError(f"{path}: a safetensors file, but not a recurrent state")
    try:
        version = int(metadata["version"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its version is damaged ({error}); save it again") from error
    while version != VERSION:
        if version not in MIGRATIONS:
            side = "newer than" if version > VERSION else "too old for"
            raise UserError(
                f"{path}: version {version} is {side} this program, which has {VERSION}"
            )
        try:
            arrays, metadata = MIGRATIONS[version](arrays, dict(metadata))
        except KeyError as error:
            raise UserError(
                f"{path}: not a complete file of version {version} ({error})"
            ) from error
        version += 1
    return arrays, metadata
