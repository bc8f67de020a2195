"""Hugging Face's `hrm_text` (HRM-Text, arXiv 2605.20613) and `HRLM` in mode "prefix_ar".

A file has gate, queries, keys and values in one matrix, and SwiGLU's gate and input in another, as
in our leaves; the library's own names, one per matrix, are read as well. The initial z_L is one of
their tensors and a field of our config. Source of names and fields: PyPI transformers 5.24
(models/hrm_text, conversion_mapping.py), and conversion/convert_to_hf.py of sapientinc/HRM-Text.
"""

from pathlib import Path

import numpy as np

from jaxmodels.convert.prefixes import settle_prefix
from jaxmodels.convert.rows import Row, read_rows, write_rows
from jaxmodels.convert.tensors import Tensors
from jaxmodels.data.tokenizers.special import PAD
from jaxmodels.errors import UserError
from jaxmodels.models.hrlm.config import HRLMConfig
from jaxmodels.models.hrlm.model import HRLM

# Defaults of transformers for fields that config.json may omit; 0 = derived from other fields.
FIELDS = {
    "vocab_size": 151808,
    "hidden_size": 1536,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_layers_per_stack": 0,  # num_hidden_layers; if both exist, that counts all calls
    "num_attention_heads": 12,
    "head_dim": 128,
    "max_position_embeddings": 2048,
    "H_cycles": 2,
    "L_cycles": 3,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "embedding_scale": 0.0,  # 1 / initializer_range
}
# Fields that must have this value if present.
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "prefix_lm": True,
    "tie_word_embeddings": False,
}
# Fields that an HRLMConfig must have to be an hrm_text.
OURS = {"mode": "prefix_ar", "recurrent": True, "norm": "pre", "head_gate": True, "inject": False}
OURS |= {"shared": False, "window": None, "mask_pad": False}
START, FIRST = "model.z_L_init", "L_module.layers.0.mlp.down_proj.weight"
MODULES = {"low": "model.L_module.layers.", "high": "model.H_module.layers."}
PARTS = {  # name in a file -> the library's names, in order of concatenation
    "attn.gqkv_proj": [f"self_attn.{name}_proj" for name in ("gate", "q", "k", "v")],
    "attn.o_proj": ["self_attn.o_proj"],
    "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
}
LEAVES = {"attn.gqkv_proj": "qkv", "attn.o_proj": "output"}
LEAVES |= {"mlp.gate_up_proj": "up", "mlp.down_proj": "down"}


def read(path: Path, given: dict, fields: dict, tensors: Tensors) -> HRLM:
    """Read the model of a folder.

    Args:
      path: path of config.json, for messages.
      given: its contents.
      fields: the fields in FIELDS, of checked types.
      tensors: tensors of the folder.

    Raises:
      UserError: a field is not supported, or tensors do not fit.
    """
    layers = fields["num_layers_per_stack"] or fields["num_hidden_layers"]
    tensors = _joined(settle_prefix(tensors, FIRST, "model."))
    if not fields["num_layers_per_stack"] and layers == 2 * tensors.count_layers(MODULES["low"]):
        layers //= 2  # the original converter may count the layers of both modules
    for prefix in MODULES.values():
        if tensors.count_layers(prefix) != layers:
            raise UserError(
                f"{tensors.path}: tensors {prefix}* have {tensors.count_layers(prefix)} layers, "
                f"but {path.name} has {layers}"
            )
    tensors.expect(START, (fields["hidden_size"],))
    start = tensors.take(START).tolist()
    rest = {name: array for name, array in tensors.arrays.items() if name != START}
    try:
        config = _config(given, fields, layers, start)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return read_rows(config, _rows_of(config), Tensors(tensors.path, rest, called=tensors.called))


def fields_of(c: HRLMConfig) -> dict:
    """Return the config.json of a model; raise UserError if hrm_text cannot represent it."""
    for name, value in OURS.items():
        if getattr(c, name) != value:
            raise UserError(
                f"{name}={getattr(c, name)!r} is not supported by hrm_text of transformers; "
                f"expected {value!r}"
            )
    if c.low_layers != c.high_layers:
        raise UserError(
            f"low_layers {c.low_layers} and high_layers {c.high_layers} differ; "
            "they are equal in hrm_text of transformers"
        )
    return FIXED | {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_size,
        "num_hidden_layers": c.calls * c.low_layers,
        "num_layers_per_stack": c.low_layers,
        "num_attention_heads": c.width // c.head_size,
        "head_dim": c.head_size,
        "max_position_embeddings": c.seq_len,
        "H_cycles": c.high_cycles,
        "L_cycles": c.low_cycles,
        "L_bp_cycles": _low_calls(c),
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base},
        "initializer_range": c.width**-0.5,
        "embedding_scale": float(c.embed_scale or c.width**0.5),
        "eos_token_id": c.eos_id,
        "pad_token_id": PAD,
    }


def tensors_of(model: HRLM) -> dict[str, np.ndarray]:
    """Return {name in hrm_text: array}."""
    start = np.asarray(model.initial_carry(1, 1).low[0, 0], np.float32)
    return write_rows(model, _rows_of(model.config)) | {START: start}


def _config(given: dict, fields: dict, layers: int, start: list) -> HRLMConfig:
    width, heads, size = (fields[f] for f in ("hidden_size", "num_attention_heads", "head_dim"))
    if heads * size != width:
        raise UserError(
            f"num_attention_heads {heads} x head_dim {size} must be hidden_size {width}"
        )
    if given.get("num_key_value_heads", heads) != heads:
        raise UserError(
            f"num_key_value_heads is {given['num_key_value_heads']!r}; only num_attention_heads, "
            f"{heads}, is supported"
        )
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    rope_type = isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise UserError(f"rope_parameters is {rope!r:.60}; only rope_type 'default' is supported")
    base = rope.get("rope_theta", given.get("rope_theta", 1e4))
    if type(base) not in (int, float) or not 0.0 < base < 2**63:
        raise UserError(f"field 'rope_theta' is {base!r}, expected a positive number")
    scale = fields["embedding_scale"] or 1.0 / fields["initializer_range"]
    high, low = fields["H_cycles"], fields["L_cycles"]
    if high * (low + 1) > 2**16:
        raise UserError(f"H_cycles {high} and L_cycles {low}: too many calls")
    return HRLMConfig(
        **OURS,
        **_inner(width, fields["intermediate_size"]),
        vocab_size=fields["vocab_size"],
        seq_len=fields["max_position_embeddings"],
        width=width,
        head_size=size,
        high_cycles=high,
        low_cycles=low,
        high_layers=layers,
        low_layers=layers,
        norm_eps=fields["rms_norm_eps"],
        grad_calls=_grad_calls(given, high, low),
        grad_rule="per_module",
        rope_base=float(base),
        registers=0,
        halt_max_steps=1,
        loss_mean="token",
        embed_scale=None if scale == width**0.5 else scale,
        eos_id=_eos_id(given.get("eos_token_id")),
        low_init=tuple(start),
    )


def _inner(width: int, size: int) -> dict:
    """Return the fields that give this inner size of SwiGLU."""
    default = {"expansion": 4.0, "mlp_multiple": 256}
    if -(-round(4.0 * width * 2 / 3) // 256) * 256 == size:
        return default
    return {"expansion": 1.5 * size / width, "mlp_multiple": 1}


def _eos_id(value) -> int | None:
    """Return eos_token_id, which may be a list of one."""
    token = value[0] if isinstance(value, list) and len(value) == 1 else value
    if token is not None and type(token) is not int:
        raise UserError(f"eos_token_id is {value!r:.60}; only one token is supported")
    return token


def _grad_calls(given: dict, high: int, low: int) -> int:
    """Return the number of calls with a gradient; `hrm_text` counts calls of L per cycle of H.

    Ours are the last ones, which may differ from theirs; the model's outputs are the same.
    """
    counts = given.get("L_bp_cycles")
    if counts is None:
        counts = given.get("L_bp_steps")  # its name in the original converter
    counts = [2] if counts is None else counts
    if not isinstance(counts, list) or any(type(x) is not int for x in counts):
        raise UserError(f"L_bp_cycles is {counts!r:.60}, expected a list of integers")
    counts = ([1] * (high - len(counts)) + counts)[:high]
    total = high + sum(min(max(x, 0), low) for x in counts)
    return min(max(total, 2), high * (low + 1))


def _low_calls(cell) -> list[int]:
    """Return L_bp_cycles, the calls of L with a gradient in each cycle of H."""
    counts = cell.grad_calls - min(cell.high_cycles, cell.grad_calls - 1)
    if cell.grad_rule == "last":
        counts = cell.grad_calls - -(-cell.grad_calls // (cell.low_cycles + 1))
    before = range(cell.high_cycles - 1, -1, -1)
    return [min(max(counts - i * cell.low_cycles, 0), cell.low_cycles) for i in before]


def _joined(tensors: Tensors) -> Tensors:
    """Return the tensors with the library's names replaced by those of files."""
    arrays = dict(tensors.arrays)
    for prefix in MODULES.values():
        for i in range(tensors.count_layers(prefix)):
            for joined, parts in PARTS.items():
                names = [f"{prefix}{i}.{part}.weight" for part in parts]
                if names[0] not in arrays:
                    continue
                shape = tensors.shape(names[0], 2)
                for name in names:
                    tensors.expect(name, shape)
                arrays[f"{prefix}{i}.{joined}.weight"] = np.concatenate(
                    [arrays.pop(name) for name in names]
                )
    return Tensors(tensors.path, arrays, called=tensors.called)


def _rows_of(config: HRLMConfig) -> list[Row]:
    rows = [
        Row("model.embed_tokens.weight", "embed.table"),
        Row("lm_head.weight", "head.kernel", "transposed"),
    ]
    for module, prefix in MODULES.items():
        for theirs, ours in LEAVES.items():
            leaf = f"core.{module}.blocks.{ours}.kernel"
            for i in range(config.low_layers):
                rows.append(Row(f"{prefix}{i}.{theirs}.weight", leaf, "transposed", part=i))
    return rows
