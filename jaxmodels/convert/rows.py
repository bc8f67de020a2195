"""Tables that map the tensors of another format to the leaves of a model, row by row.

A leaf like `layers.time.key.kernel` stacks the matrices of all layers, where other formats have one
tensor per layer. Kernels are (inputs, outputs), torch's weights the transpose.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from jaxmodels.convert.tensors import Tensors
from jaxmodels.tree import flatten, unflatten


@dataclasses.dataclass(frozen=True)
class Row:
    """A tensor of the other format, or one per layer if its name has `{i}`.

    Attributes:
      theirs: its name; `{i}` is the index of the layer.
      ours: name of the leaf.
      kind: relation of the arrays: "same"; "transposed" (last two axes); "flat" (reshaped);
        "complement" (reshaped, 1 - x).
      shape: shape of theirs, for the reshaped kinds; None means that of ours.
      part: index of the tensor in the leaf's first axis after the layers; None = the whole leaf.
      first: False if the first layer may lack it; its part of the leaf is then 0.
    """

    theirs: str
    ours: str
    kind: str = "same"
    shape: tuple[int, ...] | None = None
    part: int | None = None
    first: bool = True

    @property
    def loose(self) -> bool:
        """Whether any shape with as many elements is accepted."""
        return self.kind in ("flat", "complement")

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the other format's shape of a layer, given ours."""
        if self.kind == "transposed":
            return (*shape[:-2], shape[-1], shape[-2])
        return (self.shape or shape) if self.loose else shape

    def read(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Convert an array of the other format to ours, of this shape."""
        array = array.swapaxes(-1, -2) if self.kind == "transposed" else array.reshape(shape)
        return np.float32(1.0) - array if self.kind == "complement" else array

    def write(self, array: np.ndarray) -> np.ndarray:
        """Convert our array of a layer to the other format."""
        if self.kind == "transposed":
            array = array.swapaxes(-1, -2)
        if self.kind == "complement":
            array = np.float32(1.0) - array
        return np.ascontiguousarray(array).reshape(self.shape or array.shape)


def leaves_of(model) -> dict[str, jax.Array]:
    """Return the leaves of a model by dotted name, e.g. `layers.time.key.kernel`."""
    return flatten(model, ".")


@functools.lru_cache(maxsize=16)
def abstract_model(config):
    """Return the model of a config with `ShapeDtypeStruct` leaves."""
    return jax.eval_shape(lambda: jaxmodels.create(config))


def filled_model(abstract, leaves: dict[str, np.ndarray]):
    """Return an abstract model filled with float32 arrays under the names of `leaves_of`."""
    return unflatten(abstract, {name: jnp.asarray(x) for name, x in leaves.items()}, ".")


def fill(abstract, tensors: Tensors, prefix: str = ""):
    """Return an abstract model filled with tensors named `prefix` and the name of a leaf.

    Raises:
      UserError: a tensor is missing, of the wrong shape, or left over.
    """
    leaves = leaves_of(abstract)
    for name, leaf in leaves.items():
        tensors.expect(prefix + name, leaf.shape)
    tensors.finish()
    return filled_model(abstract, {name: tensors.take(prefix + name) for name in leaves})


def read_rows(config, rows: list[Row], tensors: Tensors):
    """Return the model of a config, filled with the other format's tensors.

    Raises:
      UserError: a tensor is missing, of the wrong shape, or left over.
    """
    abstract = abstract_model(config)
    shapes = {name: x.shape for name, x in leaves_of(abstract).items()}
    sources = []
    for row in rows:
        for name, index in _places(row, config):
            shape = shapes[row.ours][len(index) :]
            if row.first or name in tensors or index[0] > 0:
                tensors.expect(name, row.their_shape(shape), loose=row.loose)
                sources.append((row, name, index, shape))
    tensors.finish()
    # Allocate only after all checks: the sizes in a malformed file are arbitrary.
    leaves = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for row, name, index, shape in sources:
        leaves[row.ours][index] = row.read(tensors.take(name), shape)
    assert shapes.keys() == {row.ours for row in rows}, shapes.keys() ^ {row.ours for row in rows}
    return filled_model(abstract, leaves)


def write_rows(model, rows: list[Row]) -> dict[str, np.ndarray]:
    """Return the tensors of a model under the other format's names."""
    leaves = {name: np.asarray(leaf, np.float32) for name, leaf in leaves_of(model).items()}
    tensors = {}
    for row in rows:
        for name, index in _places(row, model.config):
            tensors[name] = row.write(leaves[row.ours][index])
    return tensors


def _places(row: Row, config):
    """Return the (other format's name, index into the leaf) of each tensor of a row."""
    part = () if row.part is None else (row.part,)
    if "{i}" not in row.theirs:
        return [(row.theirs, part)]
    return [(row.theirs.replace("{i}", str(i)), (i, *part)) for i in range(config.num_layers)]
