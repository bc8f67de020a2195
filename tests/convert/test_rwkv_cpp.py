"""rwkv.cpp files: trained models, what the converter of that project writes, malformed files."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels import UserError, convert
from jaxmodels.convert import blinkdl, rwkv_cpp
from jaxmodels.convert.tensors import Tensors
from tests.convert import blinkdl_numpy
from tests.convert.common import (
    DATA,
    GOLDENS,
    assert_refused,
    assert_same_bits,
    by_call,
    by_step,
    rwkv_model,
    weights,
)

VERSIONS = (4, 6, 7)
TINY = DATA / "tiny_rwkv"
TRAINED = {4: "4v0-660K", 6: "6v0-3m", 7: "7v0-834K"}


@pytest.mark.parametrize("version", VERSIONS)
def test_trained_models(version):
    """The logits after `"in` that RWKV/rwkv.cpp keeps beside these files: within 3e-6 measured."""
    path = TINY / f"tiny-rwkv-{TRAINED[version]}-FP32.bin"
    if not path.is_file():
        pytest.skip(f"no {path.name} (JAXMODELS_TEST_DATA)")
    expected = np.fromfile(TINY / f"expected-logits-{TRAINED[version]}.bin", "<f4")
    model = convert.load(path)
    for run in (by_call, by_step):
        _, logits = run(model, np.frombuffer(b'"in', np.uint8)[None].astype(np.int32))
        np.testing.assert_allclose(logits[0, -1], expected, rtol=0, atol=1e-4)


def layout(name, x, version):
    """A tensor of BlinkDL's as the converter of rwkv.cpp writes it, axes as torch has them."""
    part = name.split(".")[-1]
    if version == 4 and part == "time_decay":
        return -np.exp(x)
    if version == 6:
        if part in ("time_maa_w1", "time_decay_w1", "time_decay_w2"):
            return x.T
        if part == "time_maa_w2":
            return x.transpose(0, 2, 1)
        if part in ("time_faaaa", "time_decay"):
            return x.reshape(-1, blinkdl_numpy.HEAD, 1)
    if version == 7 and len(part) == 2 and part[0] in "wavg" and part[1] in "12":
        return x.T
    return x.squeeze() if part.startswith("time_") else x


def expected_file(version) -> dict[str, np.ndarray]:
    """Return the tensors that the file of `rwkv_model` must contain."""
    tensors = blinkdl_numpy.random_tensors(version)
    expected = {name: layout(name, x, version) for name, x in tensors.items() if ".x_" not in name}
    if version == 7:
        for i in range(blinkdl_numpy.LAYERS):
            mixes = [tensors[f"blocks.{i}.att.x_{m}"] for m in "rwkvag"]
            expected[f"blocks.{i}.att.x_rwkvag"] = np.concatenate(mixes)
            expected[f"blocks.{i}.ffn.x_k"] = tensors[f"blocks.{i}.ffn.x_k"]
    return expected


@pytest.mark.parametrize("version", VERSIONS)
def test_layout(version, tmp_path):
    path = tmp_path / "model.bin"
    convert.save(rwkv_model(version), path, to="rwkv_cpp")
    header, arrays = rwkv_cpp.read_file(path)
    assert header == {"vocab": 24, "width": 32, "layers": 3}
    expected = expected_file(version)
    assert sorted(arrays) == sorted(expected)
    for name, x in expected.items():
        assert arrays[name].shape == x.shape, name
        inexact = version == 4 and ("time_decay" in name or "ffn.time_mix" in name)
        # 1 - (1 - x) and -exp(log(-x)) round.
        np.testing.assert_allclose(arrays[name], x, rtol=1e-6 * inexact, atol=6e-8 * inexact)


@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip(version, tmp_path):
    model = rwkv_model(version)
    convert.save(model, tmp_path / "a.bin", to="rwkv_cpp")
    again = convert.load(tmp_path / "a.bin")
    assert again.config == model.config
    got, expected = weights(again), weights(model)
    if version == 4:
        decay = "layers.time.decay"
        np.testing.assert_allclose(got[decay], expected.pop(decay), rtol=0, atol=1e-6)
        got.pop(decay)
    assert_same_bits(got, expected)
    if version != 4:
        convert.save(again, tmp_path / "b.bin", to="rwkv_cpp")
        assert (tmp_path / "b.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()


def test_earlier_files_of_version_6(tmp_path):
    """The converter once wrote time_decay as a vector; it drops the axis of a lone head."""
    path = tmp_path / "model.bin"
    convert.save(rwkv_model(6), path, to="rwkv_cpp")
    _, arrays = rwkv_cpp.read_file(path)
    flat = {k: x.reshape(-1) if k.endswith(".time_decay") else x for k, x in arrays.items()}
    write_file(path, flat)
    assert_same_bits(weights(convert.load(path)), weights(rwkv_model(6)))
    lone = {k: x.reshape(-1, 1) if k.endswith("_faaaa") else x for k, x in flat.items()}
    write_file(path, lone)
    assert convert.load(path).config.head_size == blinkdl_numpy.WIDTH


@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision(version, tmp_path):
    """Matrices alone are halved, and a halved file is read to the same model as its numbers say."""
    path = tmp_path / "half.bin"
    convert.save(rwkv_model(version), path, to="rwkv_cpp", dtype="float16")
    _, arrays = rwkv_cpp.read_file(path)
    for name, x in expected_file(version).items():
        kept = ("time_", ".x_", ".k_k", ".k_a", ".r_k", ".w0", ".a0", ".v0", "ln", ".bias")
        full = any(word in name for word in kept)
        assert arrays[name].dtype == (np.float32 if full else np.float16), name
        if not full:
            np.testing.assert_array_equal(arrays[name], x.astype(np.float16))
    half = weights(convert.load(path))["layers.channel.key.kernel"]
    full = weights(rwkv_model(version))["layers.channel.key.kernel"]
    np.testing.assert_array_equal(half, full.astype(np.float16).astype(np.float32))


def test_too_large_for_float16(tmp_path):
    tensors = blinkdl_numpy.random_tensors(7)
    tensors["emb.weight"][1, 1] = 1e6
    model = blinkdl.from_tensors(Tensors(Path("memory"), tensors))
    with pytest.raises(UserError, match=r"'emb.weight' is too large for float16"):
        convert.save(model, tmp_path / "model.bin", to="rwkv_cpp", dtype="float16")
    assert not list(tmp_path.iterdir())


def write_file(path, arrays, *, magic=b"fmgg", version=101, sizes=(24, 32, 3), kind=0, kinds=None):
    """A file written out here by hand."""
    with open(path, "wb") as file:
        file.write(magic + struct.pack("<5i", version, *sizes, kind))
        for name, x in arrays.items():
            written = (kinds or {}).get(name, int(x.dtype == np.float16))
            file.write(struct.pack("<3i", x.ndim, len(name.encode()), written))
            file.write(struct.pack(f"<{x.ndim}i", *x.shape[::-1]) + name.encode() + x.tobytes())


@pytest.mark.parametrize("version", VERSIONS)
def test_tensors_that_do_not_fit(version, tmp_path):
    path, arrays = tmp_path / "model.bin", expected_file(version)

    def try_with(changed, *words):
        write_file(path, changed)
        assert_refused(path, *words)

    for name in [name for name in arrays if not name.startswith("blocks.1.")]:
        try_with({k: v for k, v in arrays.items() if k != name}, f"'{name}'", "missing")
    for name in ("blocks.1.ln2.bias", "blocks.2.ffn.value.weight", "head.weight"):
        wrong = np.zeros((3, 5), np.float32)
        try_with(arrays | {name: wrong}, f"'{name}'", "(3, 5)", "expected")
    try_with(arrays | {"emb.weight": wrong}, "vocab is 24 in the header, 3 in the tensors")
    try_with(arrays | {"emb.weight": wrong[0]}, "'emb.weight'", "(5,)")
    try_with(arrays | {"blocks.1.att.extra": arrays["ln_out.bias"]}, "unexpected", "extra'")
    if version == 4:
        positive = {"blocks.1.att.time_decay": -arrays["blocks.1.att.time_decay"]}
        try_with(arrays | positive, "'blocks.1.att.time_decay'", "values > 0")


def test_headers(tmp_path):
    path, arrays = tmp_path / "model.bin", expected_file(4)

    def try_with(*words, **header):
        write_file(path, arrays, **header)
        assert_refused(path, *words)

    write_file(path, arrays, version=100)
    convert.load(path)
    try_with("unknown format", magic=b"lmgg")
    try_with("version 99", version=99)
    for kind, name in ((2, "Q4_0"), (3, "Q4_1"), (7, "Q5_0"), (8, "Q5_1"), (9, "Q8_0"), (5, "(5)")):
        try_with(name, "FP32 and FP16", kind=kind)
    try_with("Q5_1", "'head.weight'", kinds={"head.weight": 8})
    for sizes, word in (((25, 32, 3), "vocab"), ((24, 8, 3), "width"), ((24, 32, 2), "layers")):
        try_with(word, "in the header", sizes=sizes)
    data = path.read_bytes()
    write_file(path, {"head.weight": arrays["head.weight"]})
    path.write_bytes(data + path.read_bytes()[24:])
    assert_refused(path, "duplicate tensor 'head.weight'")


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """A file of one small layer."""
    path = tmp_path_factory.mktemp("small") / "model.bin"
    rwkv_cpp.write(convert.load(GOLDENS / "blinkdl" / "rwkv4.pth"), path)
    return path.read_bytes()


def test_truncated(content, tmp_path):
    """At every offset of the first 200, at the border of every tensor, and at many others."""
    path, data = tmp_path / "model.bin", content
    borders, reader = [], rwkv_cpp._Reader(path, data)
    reader.bytes(24)
    while reader.offset < len(data):
        borders.append(reader.offset)
        reader.tensor()
    for size in sorted({*range(200), *borders, *range(200, len(data), 61), len(data) - 1}):
        path.write_bytes(data[:size])
        assert_refused(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged(content, tmp_path_factory, data):
    """Any bytes changed: an error for the user, or a model (a weight may be any number)."""
    path = tmp_path_factory.mktemp("damaged") / "model.bin"
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        convert.load(path)
    except UserError as error:
        assert "\n" not in str(error)
