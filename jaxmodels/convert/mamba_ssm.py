"""Folders of mamba_ssm, in which state-spaces publishes Mamba-1 and -2; read only.

A folder has config.json, the fields of `MambaConfig` of mamba_ssm, and pytorch_model.bin. Source:
state-spaces/mamba (config_mamba.py and mixer_seq_simple.py in mamba_ssm/models, mamba_simple.py and
mamba2.py in mamba_ssm/modules).
"""

import math
from pathlib import Path

from jaxmodels.cli import choose_from
from jaxmodels.convert.folder import CONFIG, read_weights
from jaxmodels.convert.mamba import read_mamba
from jaxmodels.data.readers.files import json_document
from jaxmodels.errors import UserError
from jaxmodels.models.mamba import Mamba, MambaConfig

MARKS = {"d_model", "n_layer"}  # fields that tell these folders from others
SIZES = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "pad_vocab_size_multiple": 8}
# Fields that must have this value if present, and those without effect on what is computed.
FIXED = {"d_intermediate": 0, "attn_layer_idx": [], "rms_norm": True}
FREE = {"attn_cfg", "residual_in_fp32", "fused_add_norm"}
# The same for the fields of ssm_cfg, by version.
LAYERS = {"Mamba1": 1, "Mamba2": 2}
LAYER_SIZES = {"d_state": "state_size", "d_conv": "conv_size", "expand": "expand"}
DEFAULTS = {
    1: {"d_state": 16, "d_conv": 4, "expand": 2},
    2: {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "ngroups": 1},
}
LAYER_FIXED = {
    1: {"bias": False, "conv_bias": True},
    2: {
        "bias": False,
        "conv_bias": True,
        "D_has_hdim": False,
        "rmsnorm": True,
        "norm_before_gate": False,
        "dt_limit": [0.0, math.inf],
    },
}
LAYER_FREE = {
    1: {"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"},
    2: {"A_init_range", "conv_init", "dt_min", "dt_max", "dt_init_floor"}
    | {"chunk_size", "use_mem_eff_path", "sequence_parallel", "process_group"},
}


def read(folder: Path) -> Mamba:
    """Read the model of a folder.

    Raises:
      UserError: a file is missing or damaged, a field of the config is not supported, or tensors do
        not fit.
    """
    path = folder / CONFIG
    given, _ = json_document(path, dict, "a model's config")
    sizes = {name: _size(path, given, name, default) for name, default in SIZES.items()}
    _refuse_others(path, given, FIXED, FREE | SIZES.keys() | {"ssm_cfg", "tie_embeddings"})
    tie = given.get("tie_embeddings", True)
    if not isinstance(tie, bool):
        raise UserError(f"{path}: field 'tie_embeddings' is {tie!r:.60}, expected true or false")
    multiple = sizes["pad_vocab_size_multiple"]
    layer = _layer(path, given.get("ssm_cfg"), sizes["d_model"])
    try:
        config = MambaConfig(
            vocab_size=-(-sizes["vocab_size"] // multiple) * multiple,
            width=sizes["d_model"],
            num_layers=sizes["n_layer"],
            tie_embeddings=tie,
            **layer,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    stated = "in" if "tie_embeddings" in given else "by default, as it is not in"
    tied = f"tie_embeddings is true {stated} {CONFIG}"
    return read_mamba(config, read_weights(folder), f"n_layer in {CONFIG}", tied)


def _layer(path: Path, given, width: int) -> dict:
    """Return the fields of our config that ssm_cfg determines."""
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise UserError(f"{path}: field 'ssm_cfg' is {given!r:.60}, expected an object")
    layer = given.get("layer", "Mamba1")
    version = LAYERS.get(layer) if isinstance(layer, str) else None
    if version is None:
        raise UserError(f"{path}: ssm_cfg has layer {layer!r:.60}{choose_from(LAYERS)}")
    sizes = {name: _size(path, given, name, n) for name, n in DEFAULTS[version].items()}
    known = {"layer", "dt_rank" if version == 1 else "d_ssm", *sizes}
    _refuse_others(path, given, LAYER_FIXED[version], LAYER_FREE[version] | known)
    fields = {"version": version} | {ours: sizes[theirs] for theirs, ours in LAYER_SIZES.items()}
    if version == 1:
        rank = given.get("dt_rank", "auto")
        fields["dt_rank"] = None if rank == "auto" else _size(path, given, "dt_rank", None)
        return fields
    inner = sizes["expand"] * width
    if given.get("d_ssm") not in (None, inner):
        raise UserError(f"{path}: d_ssm is {given['d_ssm']!r:.60}; only {inner} is supported")
    return fields | {"head_size": sizes["headdim"], "groups": sizes["ngroups"]}


def _size(path: Path, given: dict, name: str, default: int | None) -> int:
    value = given.get(name, default)
    if type(value) is not int or not 0 < value < 2**31:
        raise UserError(f"{path}: field {name!r} is {value!r:.60}, expected a positive integer")
    return value


def _refuse_others(path: Path, given: dict, fixed: dict, known: set[str]) -> None:
    """Raise UserError for a field that would change the model in a way that ours cannot."""
    for name, value in given.items():
        if name in fixed and value != fixed[name]:
            raise UserError(f"{path}: {name} is {value!r:.60}; only {fixed[name]!r} is supported")
        if name not in fixed and name not in known:
            raise UserError(f"{path}: unknown field {name!r:.60} of mamba_ssm; remove it")
