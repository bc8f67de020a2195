"""Files of `torch.save`: every pickle protocol, whole modules, and what is not read, called so."""

import collections
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxmodels import UserError, convert
from jaxmodels.convert.torch_files import torch_pickle, torch_zip
from tests.convert.common import GOLDENS, assert_refused, assert_same_bits, weights
from tests.convert.torch_files import write_archive, write_torch

FOLDER = GOLDENS / "blinkdl"
PTH = FOLDER / "rwkv4.pth"


@pytest.mark.parametrize("name", ["rwkv4-protocol4", "rwkv4-module"])
def test_sound_files_of_torch(name):
    """The same tensors, and the same model, as from a state dict in torch's own protocol."""
    expected = torch_zip.read_torch(PTH).arrays
    assert_same_bits(torch_zip.read_torch(FOLDER / f"{name}.pth").arrays, expected)
    assert_same_bits(weights(convert.load(FOLDER / f"{name}.pth")), weights(convert.load(PTH)))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_protocols(protocol, tmp_path):
    tensors = load_file(PTH.with_suffix(".safetensors"))
    state = collections.OrderedDict(tensors)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    long = "x" * 300  # a name with another opcode
    write_torch(tmp_path / "a.pth", state | {long: np.ones((2, 3, 4), np.float32)}, protocol)
    read = torch_zip.read_torch(tmp_path / "a.pth").arrays
    assert read.pop(long).shape == (2, 3, 4)
    assert_same_bits(read, tensors)


class Noted:
    """A class that would tell if it were made."""

    made = 0

    def __init__(self):
        Noted.made += 1

    def __reduce__(self):
        return Noted, ()


class Checkpoint:
    """A class of the file's own, with attributes."""

    def __init__(self):
        self.step = 3


class Dict(dict):
    """A dict of another class."""


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"emb.weight": Noted()}, ("'emb.weight' is made by tests", ".Noted", "only tensors")),
        ({"model": Checkpoint()}, ("'model' is made by tests", ".Checkpoint")),
        (Checkpoint(), ("contains an object made by tests", "expected a dict of tensors")),
        (Dict(a=1), ("contains an object made by", ".Dict")),
        ({"state_dict": {"a": 1}, "step": 3}, ("'state_dict' is a dict, not a tensor",)),
        ({"a": {1, 2}}, ("'a' is a list, not a tensor",)),
        ({"a": (1, 2)}, ("'a' is a tuple",)),
        ({5: np.ones(2, np.float32)}, ("a key is a int",)),
        (3.5, ("contains a float",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_read_is_called_what_it_is(value, words, protocol, tmp_path):
    write_torch(tmp_path / "a.pth", value, protocol)
    before = Noted.made
    assert_refused(tmp_path / "a.pth", *words)
    assert Noted.made == before


def test_tuples_of_tuples(tmp_path):
    """Their hash and their text would take forever: 200 times a pair of what was."""
    nested = b")" + b"2\x86" * 200
    for payload, words in (
        (b"}" + nested + b"K\x01s.", "a key is an object made by tuple"),
        (b"}X\x01\0\0\0a" + nested + b"s.", "'a' is a tuple"),
        (nested + b"Q.", "data.pkl cannot be read"),
        (nested + nested + b"\x93.", "data.pkl cannot be read"),
        (nested + nested + b"R.", "data.pkl cannot be read"),
    ):
        write_archive(tmp_path / "a.pth", b"\x80\x02" + payload)
        assert_refused(tmp_path / "a.pth", words)


def module(**state):
    """A module as the interpreter sees it."""
    made = torch_pickle.Foreign("torch.nn.Module")
    made.state = {"_parameters": {}, "_buffers": {}, "_modules": {}} | state
    return made


def test_modules_without_end(tmp_path):
    """A module that holds itself, and modules that hold the next one twice."""
    own = module()
    own.state["_modules"]["a"] = own
    twice = module()
    for _ in range(100):
        twice = module(_modules={"a": twice, "b": twice})
    for made in (own, twice, module(_buffers=3)):
        with pytest.raises(UserError, match="damaged, a module of modules without end"):
            torch_zip._state_of(made, tmp_path)


def test_torchscript(tmp_path):
    write_archive(tmp_path / "a.pt", pickle.dumps({}), {"constants.pkl": b""})
    assert_refused(tmp_path / "a.pt", "TorchScript", "state dict")


def test_sizes_beyond_the_file(tmp_path):
    """The directory of the archive states terabytes."""
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(PTH) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for info in archive.filelist:
            if "/data/" in info.filename:
                info.file_size = info.compress_size = 2**40
    assert_refused(path, "damaged", "larger than the file")
