"""Names of the tensors of Mamba-1 and -2, which transformers and mamba_ssm share but for one."""

import numpy as np

from jaxmodels.convert.prefixes import settle_prefix
from jaxmodels.convert.rows import Row, read_rows
from jaxmodels.convert.tensors import Tensors
from jaxmodels.errors import UserError
from jaxmodels.models.mamba import Mamba, MambaConfig

INNER = "backbone."
LAYERS = INNER + "layers."
TABLE, OLDER_TABLE = "backbone.embeddings.weight", "backbone.embedding.weight"
HEAD = "lm_head.weight"


def read_mamba(config: MambaConfig, tensors: Tensors, config_name: str, tied: str) -> Mamba:
    """Return the model of a config, filled with tensors.

    Args:
      config: config of the model.
      tensors: tensors under any prefix.
      config_name: name of the file and field of the number of layers, for messages.
      tied: statement that head and embeddings are tied, for messages.

    Raises:
      UserError: a tensor is missing, of the wrong shape, or left over.
    """
    tensors = settle_prefix(tensors, "layers.0.norm.weight", INNER)
    if tensors.count_layers(LAYERS) != config.num_layers:
        raise UserError(
            f"{tensors.path}: tensors have {tensors.count_layers(LAYERS)} layers, "
            f"but {config_name} is {config.num_layers}"
        )
    arrays, called = dict(tensors.arrays), dict(tensors.called)
    if OLDER_TABLE in arrays and TABLE not in arrays:  # also mamba_ssm's
        arrays[TABLE] = arrays.pop(OLDER_TABLE)
        called[TABLE] = called.get(OLDER_TABLE, OLDER_TABLE)
    if config.tie_embeddings and HEAD in arrays:
        if not np.array_equal(arrays[HEAD], arrays.get(TABLE)):
            raise UserError(
                f"{tensors.path}: tensor {HEAD!r} differs from the embeddings, but {tied}"
            )
        del arrays[HEAD]
    return read_rows(config, rows_of(config), Tensors(tensors.path, arrays, called=called))


def rows_of(config: MambaConfig) -> list[Row]:
    """Return the rows of a version, under transformers' names."""
    cell, mixer = config.cell, LAYERS + "{i}.mixer."
    conv = config.expand * config.width
    rows = [
        Row(TABLE, "embed.table"),
        Row(LAYERS + "{i}.norm.weight", "layers.norm.scale"),
        Row(mixer + "in_proj.weight", "layers.mixer.in_proj.kernel", "transposed"),
        Row(mixer + "conv1d.bias", "layers.mixer.conv_bias"),
        Row(mixer + "D", "layers.mixer.D"),
        Row(mixer + "out_proj.weight", "layers.mixer.out_proj.kernel", "transposed"),
        Row(INNER + "norm_f.weight", "norm.scale"),
    ]
    if config.version == 1:
        rows += [
            Row(mixer + "A_log", "layers.mixer.A_log", "transposed"),
            Row(mixer + "x_proj.weight", "layers.mixer.x_proj.kernel", "transposed"),
            Row(mixer + "dt_proj.weight", "layers.mixer.dt_proj.kernel", "transposed"),
            Row(mixer + "dt_proj.bias", "layers.mixer.dt_proj.bias"),
        ]
    else:
        conv = cell.conv_width
        rows += [
            Row(mixer + "A_log", "layers.mixer.A_log"),
            Row(mixer + "dt_bias", "layers.mixer.dt_bias"),
            Row(mixer + "norm.weight", "layers.mixer.norm_scale"),
        ]
    shape = (conv, 1, config.conv_size)
    rows.append(Row(mixer + "conv1d.weight", "layers.mixer.conv_taps", "flat", shape))
    if not config.tie_embeddings:
        rows.append(Row(HEAD, "head.kernel", "transposed"))
    return rows
