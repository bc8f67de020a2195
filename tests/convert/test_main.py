"""The command line, our own folders, and writing whole or not at all."""

import json
import os

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxmodels
from jaxmodels import UserError, convert
from jaxmodels.convert.__main__ import main
from jaxmodels.convert.blinkdl import version_of
from jaxmodels.convert.rows import abstract_model, filled_model, leaves_of
from jaxmodels.convert.tensors import Tensors
from jaxmodels.writing import written_whole
from tests.convert.common import GOLDENS, assert_refused, assert_same_bits, rwkv_model, weights

MODELS = ("rwkv4", "rwkv6", "rwkv7", "mamba", "mamba2")


def model_of(name):
    return rwkv_model(int(name[4:])) if name.startswith("rwkv") else convert.load(GOLDENS / name)


@pytest.mark.parametrize("name", MODELS)
def test_native_round_trip(name, tmp_path):
    model, folder = model_of(name), tmp_path / "model"
    convert.save(model, folder)
    assert sorted(os.listdir(folder)) == ["config.json", "weights.safetensors"]
    assert jaxmodels.config_from_json((folder / "config.json").read_text()) == model.config
    assert_same_bits(load_file(folder / "weights.safetensors"), weights(model))
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1  # whoever may read the config may read the weights
    again = convert.load(folder)
    assert again.config == model.config
    assert_same_bits(weights(again), weights(model))


def test_native_format_stores_any_model(tmp_path):
    abstract = abstract_model(jaxmodels.make_config("prernk", vocab_size=16))
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(x.shape) for name, x in leaves_of(abstract).items()}
    model = filled_model(abstract, arrays)
    convert.save(model, tmp_path / "model")
    assert_same_bits(weights(convert.load(tmp_path / "model")), weights(model))


@pytest.fixture
def folder(tmp_path):
    convert.save(rwkv_model(7), tmp_path / "model")
    return tmp_path / "model"


def test_malformed_native_folders(folder):
    path, arrays = folder / "weights.safetensors", load_file(folder / "weights.safetensors")
    for name in arrays:
        save_file({k: v for k, v in arrays.items() if k != name}, path)
        assert_refused(folder, f"'{name}'", "missing")
    save_file(arrays | {"norm.scale": np.zeros((3, 5), np.float32)}, path)
    assert_refused(folder, "'norm.scale'", "(3, 5)", "(32,)")
    save_file(arrays | {"extra": np.zeros(3, np.float32)}, path)
    assert_refused(folder, "unexpected", "'extra'")
    save_file(arrays | {"norm.scale": np.zeros(32, np.int32)}, path)
    assert_refused(folder, "'norm.scale'", "I32")
    path.unlink()
    assert_refused(folder, "weights.safetensors", "cannot be read")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"num_layers": 4}, "3 layers in the arrays, 4 in the config"),
        ({"num_layers": 10**12}, "num_layers must be at most 10,000"),
        ({"num_layers": "2"}, "num_layers"),
        ({"width": 16}, "'embed.table'"),
        ({"version": 5}, "version"),
        ({"l2_wrap": "much"}, "must be a number"),
        ({"ranks": 3}, "ranks must be 4 positive integers"),
        ({"ranks": [-1, 1, 1, 1]}, "ranks must be"),
        ({"width": 10**12}, "width must be at most 2,147,483,647"),
        ({"colour": 1}, "'colour'"),
        ({"model": "rwvk"}, "'rwkv'"),
        ({"model": 3}, "'model'"),
    ],
)
def test_malformed_native_configs(fields, word, folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert_refused(folder, word)


def test_command(tmp_path, capsys, monkeypatch):
    """From one format to the next and back: the same bits."""
    monkeypatch.chdir(tmp_path)
    source = str(GOLDENS / "blinkdl" / "rwkv4.pth")
    chain = [("a", "jaxmodels"), ("b.bin", "rwkv_cpp"), ("c", "huggingface")]
    for name, to in [*chain, ("d.safetensors", "blinkdl"), ("e.bin", "rwkv_cpp")]:
        assert main([source, name, "--to", to]) == 0
        out, err = capsys.readouterr()
        assert out.count("\n") == 1 and f"-> {name} ({to})" in out and not err
        source = name
    assert sorted(os.listdir()) == ["a", "b.bin", "c", "d.safetensors", "e.bin"]
    assert_same_bits(weights(convert.load("e.bin")), weights(convert.load("b.bin")))
    assert main(["a", "half.bin", "--to", "rwkv_cpp", "--dtype", "float16"]) == 0
    assert os.path.getsize("half.bin") < os.path.getsize("b.bin")


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    for word in ("SOURCE", "DEST", *convert.FORMATS, "--dtype", "example"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.bin", "new"], ("gone.bin", "No such file")),
        (["model.txt", "new"], ("model.txt", "unknown format", "rwkv_cpp")),
        (["model.gguf", "new"], ("gguf",)),
        ([".", "new"], ("config.json",)),
        (["run", "new"], ("the folder of a run", "python -m eval.export --workdir=run DEST")),
        (["PTH", "model.txt"], ("model.txt", "exists already")),
        (["PTH", "there"], ("there", "exists already")),
        (["PTH", "no/folder"], ("no/folder", "create it first")),
        (["PTH", "new", "--to", "blinkdl", "--dtype", "float16"], ("float16", "rwkv_cpp")),
        (["MAMBA", "new", "--to", "blinkdl"], ("Mamba", "RWKV")),
        (["MAMBA", "new", "--to", "rwkv_cpp"], ("Mamba", "RWKV")),
    ],
)
def test_invalid_arguments(arguments, words, tmp_path, capsys, monkeypatch):
    """Exit status 2, one line, and nothing written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.txt").write_text("what is this?")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
    (tmp_path / "there").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model": "rwkv", "model_config": {}}')
    before = sorted(os.listdir())
    known = {"PTH": str(GOLDENS / "blinkdl" / "rwkv4.pth"), "MAMBA": str(GOLDENS / "mamba")}
    assert main([known.get(argument, argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(os.listdir()) == before


def test_written_whole_is_atomic(tmp_path):
    """A failure in the middle leaves no trace; a destination that appears meanwhile stays."""
    with pytest.raises(KeyError), written_whole(tmp_path / "new") as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="exists"), written_whole(tmp_path / "new") as new:
        new.write_text("ours")
        (tmp_path / "new").write_text("theirs")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["theirs"]


def test_names_of_nearly_255_bytes(tmp_path):
    """Only the name itself counts, and one that is too long is refused before the work."""
    for name in ("x" * 250, "é" * 127):
        with written_whole(tmp_path / name) as temporary:
            temporary.mkdir()
        assert (tmp_path / name).is_dir()
    with pytest.raises(UserError, match=r"a\\x00b': a path must not contain NUL"):
        convert.load(tmp_path / "a\0b")
    for name in ("x" * 256, f"{'x' * 256}/y"):
        with (
            pytest.raises(UserError, match=r"\(File name too"),
            written_whole(tmp_path / name),
        ):
            raise AssertionError("the work began")
        with pytest.raises(UserError, match=r"cannot be read|must not contain NUL"):
            convert.load(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_model_is_refused(tmp_path):
    table = {"emb.weight": np.zeros((3, 2), np.float32)}
    for value in (table, nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "rwkv/7", None):
        for to in convert.WRITTEN:
            with pytest.raises(UserError, match=rf"a {type(value).__name__} is no model; give"):
                convert.save(value, tmp_path / "new", to=to)
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    model.config = "mine"
    for to in convert.WRITTEN:
        with pytest.raises(UserError, match=r"Linear|str is not the config of a model"):
            convert.save(model, tmp_path / "new", to=to)
    assert not list(tmp_path.iterdir())


def test_unknown_format(tmp_path):
    with pytest.raises(UserError, match="unknown format 'ggml'"):
        convert.save(rwkv_model(7), tmp_path / "new", to="ggml")
    assert_refused(tmp_path / "gone", "cannot be read")


def test_bytes_of_a_damaged_file_are_escaped(tmp_path):
    """The words of another library about a file may hold its bytes, here the name of a type."""
    path = tmp_path / "a.safetensors"
    save_file({"emb.weight": np.zeros(2, np.float32)}, path)
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F3\x7f"'))
    assert_refused(path, r"F3\x7f", "not a complete safetensors file")


def test_names_of_a_damaged_file_stay_on_one_line(tmp_path):
    """Names come from the file: one with a line break or an escape must not reach the terminal."""
    tensors = Tensors(tmp_path / "a.bin", {"\nemb\x1b[2J": np.zeros(2, np.float32)})
    for read in (lambda: tensors.shape("emb.weight"), lambda: version_of(tensors)):
        with pytest.raises(UserError, match=r"\\nemb\\x1b\[2J") as error:
            read()
        assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
