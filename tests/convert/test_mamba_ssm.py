"""Folders of mamba_ssm: the same models as transformers' folders, and configs that are refused."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxmodels import UserError, convert
from jaxmodels.convert.__main__ import main
from tests.convert.common import GOLDENS, assert_refused, assert_same_bits, weights
from tests.convert.torch_files import write_torch

LAYER = {
    "mamba": {"d_state": 8, "dt_rank": 3},
    "mamba2": {"layer": "Mamba2", "d_state": 16, "headdim": 16, "ngroups": 2},
}
TABLE, OURS = "backbone.embedding.weight", "backbone.embeddings.weight"


def folder_of(tmp_path, kind, fields=None, layer=None, **tensors):
    """Return the golden of transformers as mamba_ssm has it; a field None is left out."""
    folder = tmp_path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = {
        "d_model": 32,
        "n_layer": 2,
        "vocab_size": 49,
        "ssm_cfg": LAYER[kind] | (layer or {}),
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 10,
        "tie_embeddings": kind == "mamba",
    } | (fields or {})
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = load_file(GOLDENS / kind / "model.safetensors")
    arrays[TABLE] = arrays.pop(OURS)
    arrays.setdefault("lm_head.weight", arrays[TABLE])  # written out although it is tied
    write_torch(folder / "pytorch_model.bin", arrays | tensors)
    return folder


@pytest.mark.parametrize("kind", LAYER)
def test_the_model_of_transformers(kind, tmp_path):
    folder = folder_of(tmp_path, kind)
    model, expected = convert.load(folder), convert.load(GOLDENS / kind)
    assert model.config == expected.config
    assert_same_bits(weights(model), weights(expected))
    defaults = {"d_conv": 4, "expand": 2, "bias": False, "conv_bias": True, "dt_min": 0.01}
    if kind == "mamba2":
        defaults |= {"layer": "Mamba2", "d_ssm": 64, "dt_limit": [0.0, math.inf]}
    else:
        defaults |= {"layer": "Mamba1"}
    folder = folder_of(tmp_path, kind, {"pad_vocab_size_multiple": 50}, defaults)
    assert_same_bits(weights(convert.load(folder)), weights(expected))


@pytest.mark.parametrize(
    ("kind", "fields", "layer", "words"),
    [
        ("mamba", {"n_layer": 3}, {}, ("2 layers", "n_layer in config.json is 3")),
        ("mamba", {"d_model": 16}, {}, (f"{TABLE!r}", "(50, 32)", "(50, 16)")),
        ("mamba", {"vocab_size": 51}, {}, (f"{TABLE!r}", "(50, 32)", "(60, 32)")),
        ("mamba", {"d_model": -1}, {}, ("'d_model'", "-1", "positive integer")),
        ("mamba", {"n_layer": 1e9}, {}, ("'n_layer'", "positive integer")),
        ("mamba", {"rms_norm": False}, {}, ("rms_norm", "only True")),
        ("mamba", {"d_intermediate": 64}, {}, ("d_intermediate is 64", "only 0")),
        ("mamba", {"attn_layer_idx": [1]}, {}, ("attn_layer_idx", "only []")),
        ("mamba", {"colour": 1}, {}, ("unknown field 'colour'",)),
        ("mamba", {"ssm_cfg": 3}, {}, ("'ssm_cfg' is 3",)),
        ("mamba", {"tie_embeddings": 1}, {}, ("'tie_embeddings' is 1",)),
        ("mamba", {}, {"layer": "Mamba3"}, ("'Mamba3'", "choose from: Mamba1, Mamba2")),
        ("mamba", {}, {"dt_rank": "full"}, ("'dt_rank'", "'full'")),
        ("mamba", {}, {"headdim": 16}, ("unknown field 'headdim'",)),
        ("mamba2", {}, {"D_has_hdim": True}, ("D_has_hdim", "only False")),
        ("mamba2", {}, {"dt_limit": [0.0, 0.1]}, ("dt_limit", "0.1")),
        ("mamba2", {}, {"d_ssm": 32}, ("d_ssm is 32; only 64",)),
        ("mamba2", {}, {"ngroups": 3}, ("groups=3",)),
    ],
)
def test_configs_that_do_not_fit(kind, fields, layer, words, tmp_path):
    assert_refused(folder_of(tmp_path, kind, fields, layer), *words)


def test_a_head_that_differs(tmp_path):
    head = {"lm_head.weight": np.zeros((50, 32), np.float32)}
    for stated, words in ((True, "is true in config.json"), (None, "by default")):
        folder = folder_of(tmp_path, "mamba", {"tie_embeddings": stated}, **head)
        assert_refused(folder, "'lm_head.weight' differs", "tie_embeddings", words)


def test_folders_are_only_read(tmp_path, capsys):
    folder = folder_of(tmp_path, "mamba2")
    assert main([str(folder), str(tmp_path / "ours")]) == 0
    assert "(mamba_ssm) ->" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"mamba_ssm is only read; choose from: jaxmodels"):
        convert.save(convert.load(folder), tmp_path / "again", to="mamba_ssm")
