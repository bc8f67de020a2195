"""Low-rank additions to a model's matrices, LoRA (arXiv 2106.09685).

    W + (alpha / rank) down up ;  down (inputs, rank), up (rank, outputs), which starts at 0

The sum is made once per call, not the product with every token: any model works unchanged, a
rounding to bfloat16 rounds the same matrix as after `merged`, and for more tokens than `rank` it is
less work. Matrices of stacked layers have stacked additions.
"""

import fnmatch

import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.layers import symmetric_uniform
from jaxmodels.cli import did_you_mean
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.ops.common.precision import EXACT
from jaxmodels.tree import Flat, flatten, unflatten
from jaxmodels.tuning.wrapper import Wrapper

OUTER = ("embed", "head")  # never a default target


class Addition(nnx.Module):
    """The two factors of an addition.

    Both are named kernel: weight decay shrinks them all, also where it spares columns of the matrix
    itself, for here it leads to the base.
    """

    def __init__(self, shape: tuple[int, ...], rank: int, *, rngs: nnx.Rngs):
        *stacked, inputs, outputs = shape
        bound = symmetric_uniform(inputs**-0.5)
        self.down = nnx.Dict(kernel=nnx.Param(bound(rngs.params(), (*stacked, inputs, rank))))
        self.up = nnx.Dict(kernel=nnx.Param(jnp.zeros((*stacked, rank, outputs), jnp.float32)))

    def product(self):
        """Return down up, float32 (..., inputs, outputs)."""
        return jnp.matmul(self.down.kernel[...], self.up.kernel[...], precision=EXACT)


class LowRankAdditions(Wrapper):
    """A model with learned additions to some of its matrices.

    Attributes:
      additions: {name of the matrix: `Addition`}.
    """

    def __init__(self, base: nnx.Module, names, rank: int, alpha: float, *, rngs: nnx.Rngs):
        super().__init__(base)
        leaves = flatten(base)
        self.scale = float(alpha) / rank
        self.additions = nnx.Dict(
            {name: Addition(leaves[name].shape, rank, rngs=rngs) for name in names}
        )

    def merged(self) -> nnx.Module:
        """Return the base with the additions in its matrices: an ordinary model."""
        leaves = flatten(self.base)
        for name, addition in self.additions.items():
            leaves[name] = leaves[name] + self.scale * addition.product()
        return unflatten(self.base, leaves)

    def initial_state(self, batch_size: int):
        """See `Model.initial_state`."""
        return self.merged().initial_state(batch_size)

    def __call__(self, state, tokens, *args, **kwargs):
        """See `Model.__call__`."""
        return self.merged()(state, tokens, *args, **kwargs)

    def loss_sums(self, state, batch, key=None, progress=None):
        """See `Model.loss_sums`."""
        return self.merged().loss_sums(state, batch, key=key, progress=progress)

    @property
    def step(self):
        """See `Traits`."""
        return self._merged_trait("step")

    @property
    def trace(self):
        """See `Traits`."""
        return self._merged_trait("trace")

    @property
    def intermediates(self):
        """See `Traits`."""
        return self._merged_trait("intermediates")

    @property
    def solve(self):
        """See `Traits`."""
        return self._merged_trait("solve")

    def _merged_trait(self, name: str):
        """Return a method that merges when it is called, None if the base has no such trait."""
        if getattr(traits_of(self.base), name) is None:
            return None
        return lambda *args, **kwargs: getattr(self.merged(), name)(*args, **kwargs)

    @property
    def parameter_label(self):
        """See `Traits`: the label of the matrix that an addition belongs to."""
        label = traits_of(self.base).parameter_label
        if label is None:
            return None
        return lambda name: label(_matrix_of(name))


def _matrix_of(name: str) -> str:
    """Return the name of the matrix of a leaf `additions/<name>/<factor>/kernel`."""
    return name.removeprefix("additions/").rsplit("/", 2)[0]


def learn_additions(
    base: nnx.Module, *, rank: int, alpha: float = 16.0, targets=(), seed: int = 0
) -> LowRankAdditions:
    """Return a model that learns additions to matrices of `base`; it starts as the base, exactly.

    Args:
      base: a model with float32 arrays.
      rank: at most the smaller side of every chosen matrix.
      alpha: the additions are scaled by alpha / rank.
      targets: glob patterns of consecutive parts of the names of matrices (the leaves named
        kernel), e.g. "key", "time/*", "decoder"; () = those of the layers, or without layers all
        but those of embedding and head.
      seed: seed of the factors `down`.

    Raises:
      UserError: a pattern without a matrix, no matrix at all, or too large a rank.
    """
    leaves = flatten(base)
    names = chosen(leaves, targets)
    for name in names:
        *_, inputs, outputs = leaves[name].shape
        if rank > min(inputs, outputs):
            raise UserError(
                f"rank: {rank} is more than the {min(inputs, outputs)} that {name} "
                f"({inputs} x {outputs}) can have; lower it, or choose other targets"
            )
    return LowRankAdditions(base, names, rank, alpha, rngs=nnx.Rngs(seed))


def chosen(leaves: Flat, targets) -> list[str]:
    """Return the names of the matrices that the patterns of `learn_additions` choose."""
    matrices = [
        name for name, x in leaves.items() if name.rsplit("/", 1)[-1] == "kernel" and x.ndim >= 2
    ]
    if not targets:
        inner = [name for name in matrices if name.split("/")[0] not in OUTER]
        if not inner:
            raise UserError("targets: the model has no matrices beside embedding and head")
        return [name for name in inner if name.startswith("layers/")] or inner
    names = set()
    for pattern in targets:
        found = [name for name in matrices if fnmatch.fnmatchcase(f"/{name}/", f"*/{pattern}/*")]
        if not found:
            parts = sorted({part for name in matrices for part in (*name.split("/"), name)})
            raise UserError(
                f"targets: no matrix is called {pattern!r}{did_you_mean(pattern, parts)}"
            )
        names.update(found)
    return [name for name in matrices if name in names]
