"""Files as `torch.save` writes them, made without torch."""

import collections
import io
import itertools
import pickle
import sys
import types
import zipfile
from unittest import mock

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}


def write_torch(path, state, protocol=2) -> None:
    """Write a value whose arrays stand for tensors, e.g. a state dict."""
    payload, storages = torch_pickle(state, protocol)
    write_archive(path, payload, {f"data/{i}": data for i, data in enumerate(storages)})


def write_archive(path, payload: bytes, members=None) -> None:
    """Write the archive around a pickle; more members by name."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        for name, content in (members or {}).items():
            archive.writestr(f"archive/{name}", content)


def torch_pickle(state, protocol: int) -> tuple[bytes, list[bytes]]:
    """Return the pickle of a value, and the bytes of its storages, by index."""
    names = {"torch": list(STORAGES.values()), "torch._utils": ["_rebuild_tensor_v2"]}
    modules = {module: types.ModuleType(module) for module in names}
    for module, name in ((m, n) for m in names for n in names[m]):
        setattr(modules[module], name, type(name, (), {"__module__": module}))
    storages = []

    class Reference:
        def __init__(self, array):
            kind = getattr(modules["torch"], STORAGES[str(array.dtype)])
            self.id = ("storage", kind, str(len(storages)), "cpu", array.size)
            storages.append(array.tobytes())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.id if isinstance(value, Reference) else None

        def reducer_override(self, value):
            if not isinstance(value, np.ndarray):
                return NotImplemented
            sizes = itertools.accumulate((1, *value.shape[:0:-1]), lambda a, b: a * b)
            strides = tuple(reversed(list(sizes)))[-value.ndim :] if value.ndim else ()
            view = (0, value.shape, strides, False, collections.OrderedDict())
            return modules["torch._utils"]._rebuild_tensor_v2, (Reference(value), *view)

    file = io.BytesIO()
    with mock.patch.dict(sys.modules, modules):
        Pickler(file, protocol).dump(state)
    return file.getvalue(), storages
