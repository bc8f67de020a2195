"""Tables that map the tensors of another format to the arrays of a model, row by row.

A model's layers are stacked: the leaf `layers.time.key.kernel` holds all layers' matrices, where
other formats have one tensor a layer. Kernels are (inputs, outputs), torch's weights the transpose.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels
from jaxmodels.convert.tensors import Tensors
from jaxmodels.tree import leaf_name


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of the other format (one a layer, where the name has `{i}`).

    Attributes:
      theirs: its name; `{i}` stands for the number of the layer.
      ours: the name of the leaf.
      kind: how the arrays relate:
        same; transposed (last two axes); flat (of another shape, all elements in the same order);
        complement (flat, 1 - x).
      shape: of theirs, for the flat kinds; None means that of ours.
      part: theirs is only this index of the leaf's first axis (after the layers).
      first: False: the first layer may lack it, its part of the leaf is 0 then.
    """

    theirs: str
    ours: str
    kind: str = "same"
    shape: tuple[int, ...] | None = None
    part: int | None = None
    first: bool = True

    @property
    def loose(self) -> bool:
        """Whether the other format may use any shape with as many elements."""
        return self.kind in ("flat", "complement")

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the other format's shape for our shape of one layer."""
        if self.kind == "transposed":
            return (*shape[:-2], shape[-1], shape[-2])
        return (self.shape or shape) if self.loose else shape

    def read(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Convert the other format's array to ours, of this shape."""
        array = array.swapaxes(-1, -2) if self.kind == "transposed" else array.reshape(shape)
        return np.float32(1.0) - array if self.kind == "complement" else array

    def write(self, array: np.ndarray) -> np.ndarray:
        """Convert our array of one layer to the other format."""
        if self.kind == "transposed":
            array = array.swapaxes(-1, -2)
        if self.kind == "complement":
            array = np.float32(1.0) - array
        return np.ascontiguousarray(array).reshape(self.shape or array.shape)


def leaves_of(model) -> dict[str, jax.Array]:
    """Return {dotted name: array} of a model, e.g. `layers.time.key.kernel`."""
    return {leaf_name(path, "."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


@functools.lru_cache(maxsize=16)
def abstract_model(config):
    """Return the model of a config with shapes and dtypes in place of arrays."""
    return jax.eval_shape(lambda: jaxmodels.create(config))


def filled_model(abstract, leaves: dict[str, np.ndarray]):
    """Fill an abstract model with these arrays, by the names of `leaves_of`."""

    def place(path, leaf):
        array = leaves[leaf_name(path, ".")]
        assert array.shape == leaf.shape, (leaf_name(path, "."), array.shape, leaf.shape)
        return jnp.asarray(array, leaf.dtype)

    return jax.tree_util.tree_map_with_path(place, abstract)


def read_rows(config, rows: list[Row], tensors: Tensors):
    """Build the model of a config from the other format's tensors.

    Raises:
      UserError: a tensor is missing, of the wrong shape, or left over.
    """
    abstract = abstract_model(config)
    shapes = {name: x.shape for name, x in leaves_of(abstract).items()}
    found = []
    for row in rows:
        for name, index in _places(row, config):
            shape = shapes[row.ours][len(index) :]
            if row.first or name in tensors or index[0] > 0:
                tensors.expect(name, row.their_shape(shape), loose=row.loose)
                found.append((row, name, index, shape))
    tensors.finish()
    # Only now, as sizes out of a malformed file could be any.
    leaves = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for row, name, index, shape in found:
        leaves[row.ours][index] = row.read(tensors.take(name), shape)
    assert shapes.keys() == {row.ours for row in rows}, shapes.keys() ^ {row.ours for row in rows}
    return filled_model(abstract, leaves)


def write_rows(model, rows: list[Row]) -> dict[str, np.ndarray]:
    """Return {name in the other format: array}."""
    leaves = {name: np.asarray(leaf, np.float32) for name, leaf in leaves_of(model).items()}
    tensors = {}
    for row in rows:
        for name, index in _places(row, model.config):
            tensors[name] = row.write(leaves[row.ours][index])
    return tensors


def _places(row: Row, config):
    """Return (other format's name, index into the leaf) of each tensor of a row."""
    part = () if row.part is None else (row.part,)
    if "{i}" not in row.theirs:
        return [(row.theirs, part)]
    return [(row.theirs.replace("{i}", str(i)), (i, *part)) for i in range(config.num_layers)]
