"""Import and export of weights in other projects' formats; `python -m jaxmodels.convert --help`.

    model = jaxmodels.convert.load("RWKV-4-Pile-169M.pth")
    jaxmodels.convert.save(model, "rwkv-169m")                       # a native folder
    jaxmodels.convert.save(model, "rwkv-169m.bin", to="rwkv_cpp")

Needs the PyPI package `safetensors` (`pip install jaxmodels[convert]`).
"""

from pathlib import Path

from jaxmodels.cli import did_you_mean
from jaxmodels.convert import blinkdl, huggingface, native, rwkv_cpp, torch_zip
from jaxmodels.data.readers.files import json_document
from jaxmodels.errors import UserError

# name -> description, for --help and messages
FORMATS = {
    "jaxmodels": "a folder with config.json and weights.safetensors",
    "huggingface": "a folder with config.json and model.safetensors: rwkv (4), mamba, mamba2, "
    "hrm_text",
    "blinkdl": "RWKV-4, -6, -7 under BlinkDL's names: .pth (read only) or .safetensors",
    "rwkv_cpp": "RWKV-4, -6, -7 for rwkv.cpp, FP32 or FP16",
}
_MODULES = dict(zip(FORMATS, (native, huggingface, blinkdl, rwkv_cpp), strict=True))


def load(path):
    """Read the model in a file or folder of any format in `FORMATS`, detected from its content.

    Raises:
      UserError: no such file, no known format, or malformed.
    """
    path = Path(path).expanduser()
    return _MODULES[format_of(path)].read(path)


def save(model, path, to: str = "jaxmodels", dtype: str = "float32") -> None:
    """Write a model to a new file or folder, all or nothing.

    Args:
      model: a model of `jaxmodels.create` or `load`.
      path: new file or folder in an existing folder.
      to: a name in `FORMATS`.
      dtype: "float32"; or "float16" for the matrices in an rwkv.cpp file.

    Raises:
      UserError: the path exists or cannot be written, or the format does not support the model.
    """
    path = Path(path).expanduser()
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}{did_you_mean(to, FORMATS)}")
    if dtype not in ("float32", "float16") or (dtype == "float16" and to != "rwkv_cpp"):
        raise UserError(
            f"dtype: must be float32, or float16 with rwkv_cpp; got {dtype!r} with {to}"
        )
    _MODULES[to].write(model, path, *([dtype] if to == "rwkv_cpp" else []))


def format_of(path: Path) -> str:
    """Return the name in `FORMATS` of a file or folder; raise UserError if unknown."""
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path}: no config.json in this folder; {_choices()}")
        fields, _ = json_document(path / "config.json", dict, "a model's config")
        if "model_type" in fields:
            return "huggingface"
        if "model" in fields:
            return "jaxmodels"
        raise UserError(
            f"{path / 'config.json'}: has neither 'model' nor 'model_type'; {_choices()}"
        )
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if start[:4] == rwkv_cpp.MAGIC:
        return "rwkv_cpp"
    if start[:4] == torch_zip.MAGIC or start[8:] == b"{":
        return "blinkdl"
    if start[:1] == b"\x80":
        raise UserError(
            f"{path}: a pickle of torch before 1.6; load it and save it again with a newer torch"
        )
    if start[:4] == b"GGUF":
        raise UserError(f"{path}: GGUF is not supported; {_choices()}")
    raise UserError(f"{path}: unknown format, starts with {start[:4]!r}; {_choices()}")


def _choices() -> str:
    return "choose from: " + "; ".join(f"{name} ({text})" for name, text in FORMATS.items())
