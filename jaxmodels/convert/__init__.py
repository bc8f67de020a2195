"""Import and export of weights in other projects' formats; `python -m jaxmodels.convert --help`.

    model = jaxmodels.convert.load("RWKV-4-Pile-169M.pth")
    jaxmodels.convert.save(model, "rwkv-169m")                       # a native folder
    jaxmodels.convert.save(model, "rwkv-169m.bin", to="rwkv_cpp")

Needs the PyPI package `safetensors` (`pip install jaxmodels[convert]`).
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from flax import nnx

from jaxmodels.cli import choose_from, did_you_mean
from jaxmodels.convert import blinkdl, gguf, huggingface, mamba_ssm, native, rwkv_cpp
from jaxmodels.convert.torch_files import torch_zip
from jaxmodels.data.readers.files import json_document
from jaxmodels.errors import UserError
from jaxmodels.paths import user_path
from jaxmodels.quantized import is_quantized
from jaxmodels.tuning import InitialState, LowRankAdditions

# name -> description, for --help and messages
FORMATS = {
    "jaxmodels": "a folder with config.json and weights.safetensors",
    "huggingface": "a folder with config.json and model.safetensors or pytorch_model.bin (read "
    "only): rwkv (4), mamba, mamba2, hrm_text",
    "blinkdl": "RWKV-4, -6, -7 under BlinkDL's names: .pth (read only) or .safetensors",
    "rwkv_cpp": "RWKV-4, -6, -7 for rwkv.cpp, FP32 or FP16",
    "mamba_ssm": "a folder of mamba_ssm with pytorch_model.bin: Mamba-1, -2 (read only)",
    "gguf": "llama.cpp's files of Llama-type models, also quantized (read only)",
}
FOLDERS = ("jaxmodels", "huggingface")
WRITTEN = [name for name in FORMATS if name not in ("mamba_ssm", "gguf")]
_MODULES = dict(
    zip(FORMATS, (native, huggingface, blinkdl, rwkv_cpp, mamba_ssm, gguf), strict=True)
)


def load(path):
    """Read the model in a file or folder of any format in `FORMATS`, detected from its content.

    Raises:
      UserError: no such file, no known format, or malformed.
    """
    path = user_path(path)
    return _MODULES[format_of(path)].read(path)


def save(
    model,
    path,
    to: str = "jaxmodels",
    dtype: str = "float32",
    files: Mapping[str, str] | None = None,
) -> None:
    """Write a model to a new file or folder, all or nothing.

    Args:
      model: a model of `jaxmodels.create` or `load`, tuned or quantized; low-rank additions are
        merged.
      path: new file or folder in an existing folder.
      to: a name in `WRITTEN`.
      dtype: "float32"; or "float16" for the matrices in an rwkv.cpp file.
      files: name -> text of what else goes into a folder, such as a tokenizer's
        (`jaxmodels.data.tokenizers.folder.files_of`).

    Raises:
      UserError: no model, the path exists or cannot be written, or the format does not support the
        model.
    """
    path = user_path(path)
    if not isinstance(model, nnx.Module) or not hasattr(model, "config"):
        raise UserError(
            f"{path}: a {type(model).__name__} is no model; give what jaxmodels.create or "
            "jaxmodels.convert.load returns"
        )
    if to not in WRITTEN:
        if to in FORMATS:
            raise UserError(f"{to} is only read{choose_from(WRITTEN)}")
        raise UserError(f"unknown format {to!r}{did_you_mean(to, WRITTEN)}")
    if dtype not in ("float32", "float16") or (dtype == "float16" and to != "rwkv_cpp"):
        raise UserError(
            f"dtype: must be float32, or float16 with rwkv_cpp; got {dtype!r} with {to}"
        )
    if isinstance(model, LowRankAdditions):
        model = model.merged()
    if to != "jaxmodels" and (isinstance(model, InitialState) or is_quantized(model)):
        what = "int8 weights" if is_quantized(model) else "a learned initial state"
        raise UserError(f"{to} has no place for {what}; write the format jaxmodels")
    if files and to not in FOLDERS:
        raise UserError(f"{to} is a file, which holds no tokenizer{choose_from(FOLDERS)}")
    arguments = [files] if to in FOLDERS else [dtype] if to == "rwkv_cpp" else []
    _MODULES[to].write(model, path, *arguments)


def format_of(path: Path) -> str:
    """Return the name in `FORMATS` of a file or folder; raise UserError if unknown."""
    if os.path.isdir(path):  # unlike Path.is_dir, False also for a path that cannot be looked at
        if not os.path.isfile(path / "config.json"):
            raise UserError(f"{path}: no config.json in this folder; {_choices()}")
        fields, _ = json_document(path / "config.json", dict, "a model's config")
        if "model_type" in fields:
            return "huggingface"
        if "model_config" in fields:
            raise UserError(
                f"{path}: the folder of a run; write its model by python -m eval.export "
                f"--workdir={shlex.quote(str(path))} DEST"
            )
        if "model" in fields:
            return "jaxmodels"
        if fields.keys() >= mamba_ssm.MARKS:
            return "mamba_ssm"
        raise UserError(
            f"{path / 'config.json'}: has neither 'model' nor 'model_type' nor 'd_model' and "
            f"'n_layer'; {_choices()}"
        )
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error
    if start[:4] == rwkv_cpp.MAGIC:
        return "rwkv_cpp"
    if start[:4] == torch_zip.MAGIC or start[8:] == b"{":
        return "blinkdl"
    torch_zip.refuse_old_pickle(path)
    if start[:4] == gguf.MAGIC:
        return "gguf"
    raise UserError(f"{path}: unknown format, starts with {start[:4]!r}; {_choices()}")


def _choices() -> str:
    return "choose from: " + "; ".join(f"{name} ({text})" for name, text in FORMATS.items())
