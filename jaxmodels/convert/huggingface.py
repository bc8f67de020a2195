"""Hugging Face folders of `rwkv` (RWKV-4), `mamba`, `mamba2` and `hrm_text`, both directions.

A folder has config.json and weights, see `folder.py`. Source of the names and fields: PyPI
transformers 5.24 (models/rwkv, mamba, mamba2); for `hrm_text` see `hrm_text.py`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from jaxmodels.cli import choose_from
from jaxmodels.convert import blinkdl, hrm_text, mamba
from jaxmodels.convert.folder import CONFIG, WEIGHTS, read_weights, write_texts
from jaxmodels.convert.prefixes import settle_prefix
from jaxmodels.convert.rows import Row, read_rows, write_rows
from jaxmodels.convert.tensors import Tensors, write_safetensors
from jaxmodels.data.readers.files import json_document
from jaxmodels.errors import UserError
from jaxmodels.models.hrlm.model import HRLM
from jaxmodels.models.mamba import Mamba, MambaConfig
from jaxmodels.models.rwkv import RWKV, RWKVConfig
from jaxmodels.writing import written_whole

# Defaults of transformers for the fields that are read; None = required in config.json.
REQUIRED = {"vocab_size": None, "hidden_size": None, "num_hidden_layers": None}
FIELDS = {
    "rwkv": REQUIRED | {"intermediate_size": 0},  # 0 = 4 * hidden_size
    "mamba": REQUIRED
    | {
        "state_size": 16,
        "expand": 2,
        "conv_kernel": 4,
        "time_step_rank": "auto",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    "mamba2": REQUIRED
    | {
        "state_size": 128,
        "expand": 2,
        "conv_kernel": 4,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    "hrm_text": hrm_text.FIELDS,
}
# Fields that must have this value if present.
MAMBA_FIXED = {"hidden_act": "silu", "use_bias": False, "use_conv_bias": True}
FIXED = {
    "rwkv": {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": False},
    "mamba": MAMBA_FIXED,
    "mamba2": MAMBA_FIXED,
    "hrm_text": hrm_text.FIXED,
}
# Fields of config.json -> fields of our configs.
SIZES = {"vocab_size": "vocab_size", "hidden_size": "width", "num_hidden_layers": "num_layers"}
MAMBA = SIZES | {
    "state_size": "state_size",
    "expand": "expand",
    "conv_kernel": "conv_size",
    "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
}
RWKV_NAMES = {  # part of a name: BlinkDL's -> Hugging Face's
    "emb": "embeddings",
    "ln0": "pre_ln",
    "att": "attention",
    "ffn": "feed_forward",
    "time_mix_k": "time_mix_key",
    "time_mix_v": "time_mix_value",
    "time_mix_r": "time_mix_receptance",
}


def read(folder: Path) -> RWKV | Mamba | HRLM:
    """Read the model of a folder.

    Raises:
      UserError: a file is missing or damaged, the model or a field of its config is not supported,
        or tensors do not fit.
    """
    path = folder / CONFIG
    given, _ = json_document(path, dict, "a model's config")
    kind = given.get("model_type")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise UserError(f"{path}: unsupported model_type {kind!r:.60}{choose_from(FIELDS)}")
    fields = _fields(path, kind, given)
    tensors = read_weights(folder)
    if kind == "hrm_text":
        return hrm_text.read(path, given, fields, tensors)
    try:
        config = _rwkv_config(fields) if kind == "rwkv" else _mamba_config(kind, fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if kind == "rwkv":
        return _read_rwkv(config, tensors)
    stated = "in" if "tie_word_embeddings" in given else "by default, as it is not in"
    tied = f"tie_word_embeddings is true {stated} {CONFIG}"
    return mamba.read_mamba(config, tensors, f"num_hidden_layers in {CONFIG}", tied)


def write(
    model: RWKV | Mamba | HRLM, destination: Path, files: Mapping[str, str] | None = None
) -> None:
    """Write a new folder, float32; raise UserError if it exists or for unsupported models.

    Args:
      model: the model.
      destination: new folder.
      files: name -> text of other files in it.
    """
    c = model.config
    if isinstance(model, RWKV) and c.version == 4:
        kind, config = "rwkv", _rwkv_fields(c)
    elif isinstance(model, Mamba):
        kind, config = ("mamba", "mamba2")[c.version - 1], _mamba_fields(c)
    elif isinstance(model, HRLM):
        kind, config = "hrm_text", hrm_text.fields_of(c)
    else:
        version = getattr(c, "version", "")
        name = f"{type(model).__name__}{f'-{version}' if version else ''}"
        raise UserError(
            f"{name} is not in transformers; choose from: RWKV-4, Mamba-1, Mamba-2, HRM-Text"
        )
    architecture = kind.title().replace("_", "") + "ForCausalLM"
    config |= {"architectures": [architecture], "model_type": kind, "torch_dtype": "float32"}
    with written_whole(destination) as temporary:
        temporary.mkdir()
        if kind == "hrm_text":
            tensors = hrm_text.tensors_of(model)
        else:
            tensors = write_rows(model, _rows_of(c))
        write_safetensors(temporary / WEIGHTS, tensors, {"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        write_texts(temporary, {**(files or {}), CONFIG: text})


def _fields(path: Path, kind: str, given: dict) -> dict:
    """Return the fields in FIELDS; raise UserError for wrong types or unsupported values."""
    for name, value in FIXED[kind].items():
        if name in given and given[name] != value:
            raise UserError(f"{path}: {name} is {given[name]!r}; only {value!r} is supported")
    fields = {}
    for name, default in FIELDS[kind].items():
        value = given.get(name, default)
        if value is None and default is not None:
            value = default
        expected = int if default is None else type(default)
        if name == "time_step_rank" and value != "auto":
            expected = int
        if type(value) is not expected:
            problem = f"{value!r}, expected {expected.__name__}" if name in given else "missing"
            raise UserError(f"{path}: field {name!r} is {problem}")
        if expected in (int, float) and value != default and not 0 < value < 2**31:
            raise UserError(f"{path}: field {name!r} is {value}, expected a value in (0, 2**31)")
        fields[name] = value
    width = given.get("attention_hidden_size") or fields["hidden_size"]
    if kind == "rwkv" and width != fields["hidden_size"]:
        raise UserError(f"{path}: attention_hidden_size is {width}; only hidden_size is supported")
    if kind == "mamba2":
        inner = fields["expand"] * fields["hidden_size"]
        if fields["num_heads"] * fields["head_dim"] != inner:
            heads = fields["num_heads"]
            raise UserError(f"{path}: num_heads {heads} x head_dim must be expand x hidden_size")
        low, high = _limits(path, given)
        if low > 0.0 or high < float("inf"):
            raise UserError(
                f"{path}: time_step_limit is {low} to {high}; only 0 to inf is supported"
            )
    return fields


def _limits(path, given: dict) -> tuple[float, float]:
    """Return time_step_limit, two numbers; infinity may be written as an object."""
    limit = given.get("time_step_limit", [0.0, float("inf")])
    try:
        low, high = (float(x["__float__"] if isinstance(x, dict) else x) for x in limit)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: time_step_limit is {limit!r:.60}, expected two numbers"
        ) from error
    return low, high


def _read_rwkv(config: RWKVConfig, tensors: Tensors) -> RWKV:
    tensors = settle_prefix(tensors, "blocks.0.ln1.weight", "rwkv.")
    layers = tensors.count_layers("rwkv.blocks.")
    if layers != config.num_layers:
        raise UserError(
            f"{tensors.path}: tensors have {layers} layers, "
            f"but num_hidden_layers in {CONFIG} is {config.num_layers}"
        )
    return read_rows(config, _rows_of(config), tensors)


def _rwkv_config(fields: dict) -> RWKVConfig:
    channel_size = fields["intermediate_size"] or 4 * fields["hidden_size"]
    return RWKVConfig(version=4, channel_size=channel_size, **_ours(SIZES, fields))


def _rwkv_fields(c: RWKVConfig) -> dict:
    return _theirs(SIZES, c) | {
        "attention_hidden_size": c.width,
        "intermediate_size": c.channel_size,
        "layer_norm_epsilon": 1e-5,
        # Rescaling is for float16; it changes the effect of LayerNorm's epsilon.
        "rescale_every": 0,
        "tie_word_embeddings": False,
    }


def _mamba_config(kind: str, fields: dict) -> MambaConfig:
    own = _ours(MAMBA, fields)
    if kind == "mamba":
        rank = fields["time_step_rank"]
        own["dt_rank"] = -(-fields["hidden_size"] // 16) if rank == "auto" else rank
    else:
        own |= {"head_size": fields["head_dim"], "groups": fields["n_groups"]}
    return MambaConfig(version=1 if kind == "mamba" else 2, **own)


def _mamba_fields(c: MambaConfig) -> dict:
    cell = c.cell
    fields = _theirs(MAMBA, c) | {"state_size": cell.state_size} | MAMBA_FIXED
    if c.version == 1:
        return fields | {"time_step_rank": cell.dt_rank, "intermediate_size": c.expand * c.width}
    heads = c.expand * c.width // cell.head_size
    return fields | {"num_heads": heads, "head_dim": cell.head_size, "n_groups": c.groups}


def _ours(names: dict[str, str], fields: dict) -> dict:
    return {ours: fields[theirs] for theirs, ours in names.items()}


def _theirs(names: dict[str, str], config) -> dict:
    return {theirs: getattr(config, ours) for theirs, ours in names.items()}


def _rows_of(config: RWKVConfig | MambaConfig) -> list[Row]:
    if isinstance(config, MambaConfig):
        return mamba.rows_of(config)
    rows = blinkdl.rows_of(config)
    return [dataclasses.replace(row, theirs=_rwkv_name(row.theirs)) for row in rows]


def _rwkv_name(name: str) -> str:
    """Translate BlinkDL's name of a tensor to Hugging Face's."""
    parts = [RWKV_NAMES.get(part, part) for part in name.split(".")]
    return ".".join(parts if parts[0] == "head" else ["rwkv", *parts])
