"""BlinkDL's checkpoints of RWKV-4, -6 and -7: `.pth` or `.safetensors` in, `.safetensors` out.

Source of the names: BlinkDL/RWKV-LM, src/model.py of RWKV-v4neo, RWKV-v5 (x060) and
RWKV-v7/train_temp. Weights of linear maps are (outputs, inputs), low-rank maps (inputs, outputs) as
in `jaxmodels`; vectors are (1, 1, C) or (C,), per-head vectors (H, N).
"""

from pathlib import Path

import numpy as np

from jaxmodels.cells import rwkv6, rwkv7
from jaxmodels.convert.prefixes import settle_prefix
from jaxmodels.convert.rows import Row, read_rows, write_rows
from jaxmodels.convert.tensors import Tensors, read_safetensors, write_safetensors
from jaxmodels.convert.torch_files import torch_zip
from jaxmodels.errors import UserError
from jaxmodels.models.rwkv import RWKV, RWKVConfig
from jaxmodels.writing import written_whole

# Parts of tensor names that identify a version, newest first.
MARKS = {
    7: (".att.x_", ".att.k_k", ".att.r_k", ".att.a0"),
    6: (".time_maa_", ".time_decay_w"),
    5: (".time_faaaa", ".att.ln_x.", ".time_mix_g"),
    4: (".time_mix_", ".time_first", ".time_decay"),
}
UNUSED = [f"blocks.0.att.v{n}" for n in (0, 1, 2)]  # in version 7; may be absent
LOW_RANK = {"w": "decay", "a": "rate", "v": "residual", "g": "gate"}  # version 7


def read(path: Path) -> RWKV:
    """Read the model of a `.pth` (detected from its content) or `.safetensors` file.

    Raises:
      UserError: truncated or damaged, not RWKV-4, -6 or -7, or tensors that do not fit.
    """
    with open(path, "rb") as file:
        is_zip = file.read(4) == torch_zip.MAGIC
    return from_tensors(torch_zip.read_torch(path) if is_zip else read_safetensors(path))


def write(model: RWKV, destination: Path) -> None:
    """Write a new `.safetensors` file, float32; raise UserError if it exists."""
    tensors = tensors_of(model)
    with written_whole(destination) as temporary:
        write_safetensors(temporary, tensors)


def from_tensors(tensors: Tensors) -> RWKV:
    """Return the model of tensors under BlinkDL's names."""
    version_of(tensors)  # raises for another model
    tensors = settle_prefix(tensors, "blocks.0.ln1.weight")
    config = config_of(tensors)
    return read_rows(config, rows_of(config), tensors)


def tensors_of(model) -> dict[str, np.ndarray]:
    """Return {BlinkDL's name: float32 array} of a model; raise UserError for other models."""
    if not isinstance(model, RWKV):
        raise UserError(f"{type(model).__name__}: only RWKV-4, -6 and -7 have this format")
    tensors = write_rows(model, rows_of(model.config))
    if not any(tensors[name].any() for name in UNUSED if name in tensors):
        tensors = {name: array for name, array in tensors.items() if name not in UNUSED}
    return tensors


def version_of(tensors: Tensors) -> int:
    """Return 4, 6 or 7, from the names of the tensors."""
    for version, marks in MARKS.items():
        if any(mark in name for name in tensors.arrays for mark in marks):
            if version == 5:
                raise UserError(f"{tensors.path}: RWKV-5 is not supported; versions 4, 6 and 7 are")
            return version
    names = tensors.some_names()
    raise UserError(f"{tensors.path}: expected RWKV tensors under BlinkDL's names, got {names}")


def config_of(tensors: Tensors) -> RWKVConfig:
    """Infer the config of a model from the shapes of its tensors."""
    version = version_of(tensors)
    vocab_size, width = tensors.shape("emb.weight", 2)
    fields = {
        "version": version,
        "vocab_size": vocab_size,
        "width": width,
        "num_layers": tensors.count_layers("blocks."),
        "channel_size": tensors.shape("blocks.0.ffn.key.weight", 2)[0],
    }
    if version == 6:
        fields["head_size"] = _head_size(tensors, "blocks.0.att.time_faaaa")
        mix = tensors.shape("blocks.0.att.time_maa_w2", 3)[1]
        fields["ranks"] = (mix, tensors.shape("blocks.0.att.time_decay_w1", 2)[1])
    if version == 7:
        fields["head_size"] = _head_size(tensors, "blocks.0.att.r_k")
        ranks = [tensors.shape(f"blocks.0.att.{m}1", 2)[1] for m in "wag"]
        if fields["num_layers"] > 1:
            ranks.insert(2, tensors.shape("blocks.1.att.v1", 2)[1])
        else:
            ranks.insert(2, tensors.shape(UNUSED[1], 2)[1] if UNUSED[1] in tensors else 1)
        fields["ranks"] = tuple(ranks)
    try:
        return RWKVConfig(**fields)
    except UserError as error:
        raise UserError(f"{tensors.path}: {error}") from error


def _head_size(tensors: Tensors, name: str) -> int:
    """Return N of (H, N), (H, N, 1) or, where axes of size 1 have been dropped, (N,)."""
    sizes = [size for size in tensors.shape(name) if size != 1]
    return sizes[-1] if sizes else 1


def rows_of(config: RWKVConfig) -> list[Row]:
    """Return the rows of a version."""
    own = {4: _rows_4, 6: _rows_6, 7: _rows_7}[config.version](config)
    return [
        Row("emb.weight", "embed.table"),
        *_norm("blocks.0.ln0", "norm_embed"),
        *_norm("blocks.{i}.ln1", "layers.norm_time"),
        *_norm("blocks.{i}.ln2", "layers.norm_channel"),
        *own,
        _matrix("blocks.{i}.ffn.key", "layers.channel.key"),
        _matrix("blocks.{i}.ffn.value", "layers.channel.value"),
        *_norm("ln_out", "norm"),
        _matrix("head", "head"),
    ]


def _rows_4(config):
    c = (1, 1, config.width)
    att, ffn = "blocks.{i}.att.", "blocks.{i}.ffn."
    return [
        *_mixes("time_mix_", "kvr", c),
        *_matrices("key", "value", "receptance", "output"),
        Row(att + "time_decay", "layers.time.decay", "flat"),
        Row(att + "time_first", "layers.time.bonus", "flat"),
        # Our mix is the weight of the previous token, theirs that of the current one.
        Row(ffn + "time_mix_k", "layers.channel.key_mix", "complement", c),
        Row(ffn + "time_mix_r", "layers.channel.receptance_mix", "complement", c),
        _matrix(ffn + "receptance", "layers.channel.receptance"),
    ]


def _rows_6(config):
    c, heads = (1, 1, config.width), (config.width // config.head_size, config.head_size)
    att, ffn = "blocks.{i}.att.", "blocks.{i}.ffn."
    return [
        *_mixes("time_maa_", rwkv6.MIXED, c),
        *_matrices("receptance", "key", "value", "gate", "output"),
        Row(att + "time_maa_x", "layers.time.mix_x", "flat", c),
        Row(att + "time_maa_w1", "layers.time.mix_down"),
        Row(att + "time_maa_w2", "layers.time.mix_up"),
        Row(att + "time_decay", "layers.time.decay", "flat", c),
        Row(att + "time_decay_w1", "layers.time.decay_down"),
        Row(att + "time_decay_w2", "layers.time.decay_up"),
        Row(att + "time_faaaa", "layers.time.bonus", "flat", heads),
        Row(att + "ln_x.weight", "layers.time.norm_scale"),
        Row(att + "ln_x.bias", "layers.time.norm_bias"),
        Row(ffn + "time_maa_k", "layers.channel.key_mix", "flat", c),
        Row(ffn + "time_maa_r", "layers.channel.receptance_mix", "flat", c),
        _matrix(ffn + "receptance", "layers.channel.receptance"),
    ]


def _rows_7(config):
    c, heads = (1, 1, config.width), (config.width // config.head_size, config.head_size)
    att, ffn = "blocks.{i}.att.", "blocks.{i}.ffn."
    rows = _mixes("x_", rwkv7.MIXED, c)
    for name, ours in LOW_RANK.items():
        first = name != "v"
        if name != "g":
            rows.append(Row(f"{att}{name}0", f"layers.time.{ours}.bias", "flat", c, first=first))
        rows.append(Row(f"{att}{name}1", f"layers.time.{ours}.down", first=first))
        rows.append(Row(f"{att}{name}2", f"layers.time.{ours}.up", first=first))
    return [
        *rows,
        *_matrices("receptance", "key", "value", "output"),
        Row(att + "k_k", "layers.time.removal_scale", "flat", c),
        Row(att + "k_a", "layers.time.key_scale", "flat", c),
        Row(att + "r_k", "layers.time.bonus", "flat", heads),
        Row(att + "ln_x.weight", "layers.time.norm_scale"),
        Row(att + "ln_x.bias", "layers.time.norm_bias"),
        Row(ffn + "x_k", "layers.channel.key_mix", "flat", c),
    ]


def _mixes(prefix: str, names, shape: tuple[int, ...]) -> list[Row]:
    """Return the rows of the token shifts, which our leaf stacks."""
    theirs = [f"blocks.{{i}}.att.{prefix}{name}" for name in names]
    return [Row(name, "layers.time.mix", "flat", shape, i) for i, name in enumerate(theirs)]


def _matrices(*names: str) -> list[Row]:
    return [_matrix(f"blocks.{{i}}.att.{name}", f"layers.time.{name}") for name in names]


def _matrix(theirs: str, ours: str) -> Row:
    return Row(f"{theirs}.weight", f"{ours}.kernel", "transposed")


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}.scale"), Row(f"{theirs}.bias", f"{ours}.bias")]
