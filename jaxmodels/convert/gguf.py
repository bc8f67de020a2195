"""Llama-type models in GGUF files, llama.cpp's format, also quantized; read only.

RMSNorm, rotary positions, grouped-query attention and SwiGLU are those of `models/transformer.py`.
Needs the PyPI package `gguf` (`pip install jaxmodels[gguf]`), which turns quantized blocks into
float32. Source: ggml-org/llama.cpp (docs of GGUF; convert_hf_to_gguf.py, which reorders the rows of
queries and keys so that pairs (2 i, 2 i + 1) are rotated, where we rotate (i, i + N / 2)).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.convert.rows import Row, read_rows
from jaxmodels.convert.tensors import Tensors
from jaxmodels.errors import UserError
from jaxmodels.extras import import_extra
from jaxmodels.models.transformer import Transformer, TransformerConfig

MAGIC = b"GGUF"
BLOCK = "blk.{i}."
SIZES = {  # key after "llama." -> field of our config
    "embedding_length": "width",
    "block_count": "num_layers",
    "feed_forward_length": "mlp_size",
    "attention.head_count_kv": "kv_heads",
    "context_length": "window",
}
EPS = 1e-5
DIGITS = {"smollm": True, "gpt-2": False, "default": False}  # pre-tokenizer -> digits one by one
CONTROL = 3  # type of a token that is no text
# Errors of the package for files that are cut or altered.
DAMAGED = (ValueError, KeyError, IndexError, TypeError, OverflowError, OSError, MemoryError)


def read(path: Path) -> Transformer:
    """Read the model of a file; its window is the context that the file states.

    Raises:
      UserError: damaged, another architecture, a field or quantization that is not supported, or
        tensors that do not fit.
    """
    file, fields = _open(path)
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise UserError(f"{path}: a GGUF file of architecture {kind!r}; only 'llama' is supported")
    quants = import_extra("gguf.quants")
    arrays = {}
    for tensor in file.tensors:
        try:
            arrays[tensor.name] = quants.dequantize(tensor.data, tensor.tensor_type)
        except (*DAMAGED, NotImplementedError) as error:
            what = f"tensor {tensor.name!r} of type {tensor.tensor_type.name}"
            raise UserError(f"{path}: {what} cannot be read ({error})") from error
    config = _config(path, fields, arrays)
    return read_rows(config, _rows_of(config), Tensors(path, _reordered(path, config, arrays)))


def tokenizer_files(path: Path) -> dict[str, str]:
    """Return name -> text of the tokenizer's files; none for kinds that are not supported.

    Supported are byte-level BPE as GPT-2's, and as SmolLM's, which splits digits.
    """
    fields = _open(path)[1]
    pre = fields.get("tokenizer.ggml.pre", "default")
    if fields.get("tokenizer.ggml.model") != "gpt2" or pre not in DIGITS:
        return {}
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [i for i, kind in enumerate(kinds) if kind == CONTROL]
    bytes_of = {"type": "ByteLevel", "use_regex": True, "trim_offsets": True}
    bytes_of["add_prefix_space"] = False
    digits = [{"type": "Digits", "individual_digits": True}] if DIGITS[pre] else []
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": tokens[i], "special": True, **flags} for i in special
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*digits, bytes_of]},
        "decoder": bytes_of,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": list(fields["tokenizer.ggml.merges"]),
        },
    }
    about = {
        f"{name}_token": tokens[fields[key]]
        for name in ("bos", "eos")
        if (key := f"tokenizer.ggml.{name}_token_id") in fields
    }
    if template := fields.get("tokenizer.chat_template"):
        about["chat_template"] = template
    texts = {"tokenizer.json": document, "tokenizer_config.json": about}
    return {name: json.dumps(text, ensure_ascii=False) + "\n" for name, text in texts.items()}


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the package's reader of a file, and its fields."""
    gguf = import_extra("gguf")
    try:
        file = gguf.GGUFReader(path)
        return file, {name: field.contents() for name, field in file.fields.items()}
    except DAMAGED as error:
        raise UserError(f"{path}: damaged, or no GGUF file of version 2 or 3 ({error})") from error


def _config(path: Path, fields: dict[str, Any], arrays) -> TransformerConfig:
    def number(key: str, default=None):
        value = fields.get(f"llama.{key}", default)
        if not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{path}: field llama.{key} is {value!r}, expected a number above 0")
        return value

    heads = number("attention.head_count")
    sizes = {
        ours: number(theirs, heads if "kv" in theirs else None) for theirs, ours in SIZES.items()
    }
    eps = number("attention.layer_norm_rms_epsilon", EPS)
    if abs(eps - EPS) > 1e-3 * EPS:
        raise UserError(f"{path}: RMSNorm with epsilon {eps:g}; only {EPS:g} is supported")
    head_size = sizes["width"] // heads
    rotated = number("rope.dimension_count", head_size)
    scaling = fields.get("llama.rope.scaling.type", "none")
    if rotated != head_size or scaling != "none":
        raise UserError(
            f"{path}: {rotated} of {head_size} channels of a head are rotated, scaling {scaling!r};"
            " only all and 'none' are supported"
        )
    try:
        return TransformerConfig(
            vocab_size=Tensors(path, arrays).shape("token_embd.weight", 2)[0],
            head_size=head_size,
            rope_base=float(number("rope.freq_base", 1e4)),
            tie_embeddings="output.weight" not in arrays,
            **sizes,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _rows_of(c: TransformerConfig) -> list[Row]:
    names = {"attn_q": "cell.query", "attn_k": "cell.key", "attn_v": "cell.value"}
    names |= {"attn_output": "cell.output", "ffn_up": "mlp.up", "ffn_down": "mlp.down"}
    rows = [
        Row(f"{BLOCK}{theirs}.weight", f"layers.{ours}.kernel", "transposed")
        for theirs, ours in names.items()
    ]
    rows += [
        Row(f"{BLOCK}attn_norm.weight", "layers.norm_cell.scale"),
        Row(f"{BLOCK}ffn_norm.weight", "layers.norm_mlp.scale"),
        Row("token_embd.weight", "embed.table"),
        Row("output_norm.weight", "norm.scale"),
    ]
    if not c.tie_embeddings:
        rows.append(Row("output.weight", "head.kernel", "transposed"))
    return rows


def _reordered(path: Path, c: TransformerConfig, arrays) -> dict[str, np.ndarray]:
    """Return the tensors with rows of queries and keys in our order, and gate and up as one."""
    arrays = dict(arrays)
    tensors = Tensors(path, arrays)
    for i in range(c.num_layers):
        block = BLOCK.replace("{i}", str(i))
        for name in (f"{block}attn_q.weight", f"{block}attn_k.weight"):
            rows, columns = tensors.shape(name, 2)
            if rows % c.head_size:
                raise UserError(f"{path}: tensor {name!r} has {rows} rows, no multiple of a head's")
            pairs = arrays[name].reshape(-1, c.head_size // 2, 2, columns)
            arrays[name] = pairs.swapaxes(1, 2).reshape(rows, columns)
        gate, up = f"{block}ffn_gate.weight", f"{block}ffn_up.weight"
        if tensors.shape(gate, 2) != tensors.shape(up, 2):
            raise UserError(f"{path}: tensors {gate!r} and {up!r} differ in shape")
        arrays[up] = np.concatenate([arrays.pop(gate), arrays[up]])
    return arrays
