"""Hugging Face's `hrm_text` (HRM-Text, arXiv 2605.20613) and `HRLM` in mode "prefix_ar".

A file holds gate, queries, keys and values as one matrix, and SwiGLU's gate and input as one, as
our leaves do; the library's own names, one for each matrix, are read as well. z_L at the start is a
tensor of theirs and a field of our config. Source of names and fields: PyPI transformers 5.24
(models/hrm_text, conversion_mapping.py), and conversion/convert_to_hf.py of sapientinc/HRM-Text.
"""

from pathlib import Path

import numpy as np

from jaxmodels.convert.rows import Row, read_rows, write_rows
from jaxmodels.convert.tensors import Tensors
from jaxmodels.data.tokenizers.special import PAD
from jaxmodels.errors import UserError
from jaxmodels.models.hrlm.config import HRLMConfig
from jaxmodels.models.hrlm.model import HRLM

# The library's defaults, which a config.json may leave out. 0 means what follows from others.
FIELDS = {
    "vocab_size": 151808,
    "hidden_size": 1536,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_layers_per_stack": 0,  # num_hidden_layers; where both are, that counts all calls
    "num_attention_heads": 12,
    "head_dim": 128,
    "max_position_embeddings": 2048,
    "H_cycles": 2,
    "L_cycles": 3,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "embedding_scale": 0.0,  # 1 / initializer_range
}
# Fields that must have this value, if they are there.
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "prefix_lm": True,
    "tie_word_embeddings": False,
}
# What a config of ours must be to be one of theirs.
OURS = {"mode": "prefix_ar", "recurrent": True, "norm": "pre", "head_gate": True, "inject": False}
OURS |= {"shared": False, "window": None, "mask_pad": False}
START = "model.z_L_init"
MODULES = {"low": "model.L_module.layers.", "high": "model.H_module.layers."}
PARTS = {  # of one name in a file: the library's names, in the order in which they are joined
    "attn.gqkv_proj": [f"self_attn.{name}_proj" for name in ("gate", "q", "k", "v")],
    "attn.o_proj": ["self_attn.o_proj"],
    "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"],
}
LEAVES = {"attn.gqkv_proj": "qkv", "attn.o_proj": "output"}
LEAVES |= {"mlp.gate_up_proj": "up", "mlp.down_proj": "down"}


def read(path: Path, given: dict, fields: dict, tensors: Tensors) -> HRLM:
    """Read the model of a folder.

    Args:
      path: of config.json, for messages.
      given: what it holds.
      fields: those of FIELDS, checked for their types.
      tensors: of the folder.

    Raises:
      UserError: a field is not supported, or tensors do not fit.
    """
    layers = fields["num_layers_per_stack"] or fields["num_hidden_layers"]
    tensors = _joined(tensors)
    if not fields["num_layers_per_stack"] and layers == 2 * tensors.count_layers(MODULES["low"]):
        layers //= 2  # the original's converter may write those of both modules together
    for prefix in MODULES.values():
        if tensors.count_layers(prefix) != layers:
            raise UserError(
                f"{tensors.path}: tensors {prefix}* of {tensors.count_layers(prefix)} layers, "
                f"{path.name} says {layers}"
            )
    tensors.expect(START, (fields["hidden_size"],))
    start = tensors.take(START).tolist()
    rest = {name: array for name, array in tensors.arrays.items() if name != START}
    try:
        config = _config(given, fields, layers, start)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return read_rows(config, _rows_of(config), Tensors(tensors.path, rest))


def fields_of(c: HRLMConfig) -> dict:
    """Return the config.json of one of our models; raise UserError if HRM-Text cannot hold it."""
    for name, wanted in OURS.items():
        if getattr(c, name) != wanted:
            raise UserError(
                f"an HRLM with {name}={getattr(c, name)!r} is not in transformers; "
                f"hrm_text has {wanted!r}"
            )
    if c.low_layers != c.high_layers:
        raise UserError(
            f"low_layers {c.low_layers} and high_layers {c.high_layers} differ; "
            "hrm_text of transformers has as many in both"
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
    plain = isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default"))
    if plain != "default":
        raise UserError(f"rope_parameters is {rope!r:.60}; only rope_type 'default' is supported")
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
        rope_base=_number("rope_theta", rope.get("rope_theta", given.get("rope_theta", 1e4))),
        registers=0,
        halt_max_steps=1,
        loss_mean="token",
        embed_scale=None if scale == width**0.5 else scale,
        eos_id=_end(given.get("eos_token_id")),
        low_init=tuple(start),
    )


def _inner(width: int, size: int) -> dict:
    """Return the fields that give this inner size of SwiGLU."""
    usual = {"expansion": 4.0, "mlp_multiple": 256}
    if -(-round(4.0 * width * 2 / 3) // 256) * 256 == size:
        return usual
    return {"expansion": 1.5 * size / width, "mlp_multiple": 1}


def _number(name: str, value) -> float:
    if type(value) not in (int, float) or not 0.0 < value < 2**63:
        raise UserError(f"field {name!r} is {value!r}, expected a positive number")
    return float(value)


def _end(given) -> int | None:
    """eos_token_id: a number, or a list of one."""
    one = given[0] if isinstance(given, list) and len(given) == 1 else given
    if one is not None and type(one) is not int:
        raise UserError(f"eos_token_id is {given!r:.60}; only one token is supported")
    return one


def _grad_calls(given: dict, high: int, low: int) -> int:
    """Return the number of calls with a gradient; `hrm_text` counts calls of L per cycle of H.

    Which calls these are may differ: ours are the last ones. It is of no account to what a model
    computes.
    """
    counts = given.get("L_bp_cycles")
    if counts is None:
        counts = given.get("L_bp_steps")  # its name in the original's converter
    counts = [2] if counts is None else counts
    if not isinstance(counts, list) or any(type(x) is not int for x in counts):
        raise UserError(f"L_bp_cycles is {counts!r:.60}, expected a list of integers")
    counts = ([1] * (high - len(counts)) + counts)[:high]
    total = high + sum(min(max(x, 0), low) for x in counts)
    return min(max(total, 2), high * (low + 1))


def _low_calls(cell) -> list[int]:
    """Return L_bp_cycles: calls of L with a gradient in each cycle of H."""
    counts = cell.grad_calls - min(cell.high_cycles, cell.grad_calls - 1)
    if cell.grad_rule == "last":
        counts = cell.grad_calls - -(-cell.grad_calls // (cell.low_cycles + 1))
    before = range(cell.high_cycles - 1, -1, -1)
    return [min(max(counts - i * cell.low_cycles, 0), cell.low_cycles) for i in before]


def _joined(tensors: Tensors) -> Tensors:
    """With the library's names, if there are any, replaced by those of files."""
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
                one = np.concatenate([arrays.pop(name) for name in names])
                arrays[f"{prefix}{i}.{joined}.weight"] = one
    return Tensors(tensors.path, arrays)


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
