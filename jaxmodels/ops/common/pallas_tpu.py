"""Building blocks of the Pallas TPU kernels: calls, block specs and matmuls.

On other platforms, kernels run in interpret mode, for tests only. XLA does not partition kernels:
on several devices, call them under `jax.pmap` or `jax.shard_map`. A kernel's outputs vary over the
mesh axes of all of its arguments; an op whose derivative is a kernel casts its arguments alike.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import Jaxpr, Literal

from jaxmodels.errors import NotDifferentiable, UserError
from jaxmodels.ops.common.precision import precision_of
from jaxmodels.ops.common.varying import cast_alike, varying_axes, varying_struct

SUBLANES, LANES = 8, 128  # of a register
PACKED_SUBLANES = 16  # of bfloat16
VMEM_BYTES = 32 * 2**20  # limit per kernel, a quarter of a v5e's VMEM, to leave the rest to XLA


def kernel_call(body, name, *, semantics, out_shape, **options):
    """Wrap `pallas_call`, compiled on a TPU and interpreted on other platforms.

    A kernel has no derivative. Where an op defines its first one by another kernel, the second one,
    or forward mode, raises NotDifferentiable that names the kernel.

    Args:
      body: called as body(*refs, exact=bool); `exact`, True in interpret mode, where float32
        matmuls are exact, is an argument of `dot` and `select_matmul`.
      name: kernel name in profiles and HLO.
      semantics: "parallel" or "arbitrary" (sequential) for each grid axis.
      options: further arguments of `pallas_call`.
    """

    def run(interpret, outputs):
        return pl.pallas_call(
            functools.partial(body, exact=interpret),
            name=name,
            interpret=interpret,
            out_shape=outputs,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=semantics, vmem_limit_bytes=VMEM_BYTES
            ),
            **options,
        )

    @jax.custom_jvp
    def call(*arguments):
        axes = varying_axes(arguments)
        if not axes:
            return jax.lax.platform_dependent(
                *arguments, tpu=run(False, out_shape), default=run(True, out_shape)
            )
        if jax.default_backend() != "tpu":  # the interpreter's own loops do not name the axes
            raise UserError(
                f"the Pallas kernel {name} is interpreted off TPUs, which needs check_vma=False in "
                'jax.shard_map; pass it, or set kernel="xla" (implementation="auto" of the op)'
            )
        outputs = jax.tree.map(lambda x: varying_struct(x, axes), out_shape)
        return run(False, outputs)(*cast_alike(arguments))

    @call.defjvp
    def refuse(primals, tangents):
        raise NotDifferentiable(
            f"the Pallas kernel {name} has first derivatives in reverse mode only; for others, set "
            'kernel="xla" (implementation="auto" of the op)'
        )

    return call


def float32_array(*dims: int) -> jax.ShapeDtypeStruct:
    """Return the shape struct of a float32 kernel output."""
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def specs_over_time(blocks: int, axis: int, *, backwards: bool):
    """Return spec(block, at) -> `BlockSpec`, for a grid with time on one axis.

    Args:
      blocks: number of blocks over time.
      axis: time axis of the grid.
      backwards: the grid starts with the last block; `at` still gets the block's index in time.
    """

    def spec(block, at):
        def place(*grid):
            time = blocks - 1 - grid[axis] if backwards else grid[axis]
            return at(*grid[:axis], time, *grid[axis + 1 :])

        return pl.BlockSpec(block, place)

    return spec


def lane_blocks(count: int, size: int, most: int) -> tuple[int, int]:
    """Divide `count` items of `size` lanes each into blocks of at most `most` lanes.

    Returns:
      (items per block: all, or a number that fills registers; total items including padding).
    """
    if count * size <= most:
        return count, count
    step = LANES // math.gcd(LANES, size)
    largest = max(most // size // step, 1) * step
    fitting = [n for n in range(step, largest + 1, step) if count % n == 0]
    block = max(fitting, default=largest)
    return block, -(-count // block) * block


def aligned_chunk_size(chunk_size: int, time: int) -> int:
    """Return tokens per chunk: `chunk_size` rounded up to whole registers, at most `time`."""
    return min(time, -(-chunk_size // SUBLANES) * SUBLANES)


def sum_row_groups(x: jax.Array) -> jax.Array:
    """Sum (c, lanes) over groups of 8 rows to (8, lanes), without a reduction inside a register."""
    return x.reshape(-1, SUBLANES, x.shape[1]).sum(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def dot(exact: bool, over: tuple[int, int], x: jax.Array, y: jax.Array) -> jax.Array:
    """Contract one axis of each of two float32 matrices, in float32.

    Emulates `Precision.HIGH`, which Pallas lacks: each factor is split into two bfloat16 parts, and
    three bfloat16 matmuls (all but low x low) give 16 bits. Short sums over rows are one matmul,
    which fills the depth of the matrix unit.
    """
    if exact:
        return _contract(over, x, y)
    (x, x_rest), (y, y_rest) = _split(x, 2), _split(y, 2)
    if over == (0, 0) and x.shape[0] < LANES and x.shape[0] % PACKED_SUBLANES == 0:
        x, y = jnp.concatenate([x, x, x_rest]), jnp.concatenate([y, y_rest, y])
        return _contract(over, x, y)
    return _contract(over, x, y) + (_contract(over, x, y_rest) + _contract(over, x_rest, y))


def _dot_forward(exact, over, x, y):
    return dot(exact, over, x, y), (x, y)


def _dot_backward(exact, over, saved, g):
    x, y = saved
    left, right = over
    x_free, y_free = 1 - left, 1 - right
    d_x = dot(exact, (1, y_free), g, y) if left else dot(exact, (y_free, 1), y, g)
    d_y = dot(exact, (0, x_free), g, x) if right else dot(exact, (x_free, 0), x, g)
    return d_x, d_y


dot.defvjp(_dot_forward, _dot_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def select_matmul(exact: bool, parts: int, side: str, choice: jax.Array, x: jax.Array) -> jax.Array:
    """Return choice @ x (`side` "left") or x @ choice ("right") for a matrix of zeros and ones.

    x is float32, split into `parts` bfloat16 parts of 8 bits each; the choice has no gradient.
    """
    return _select_matmul(exact, parts, side, 0, choice, x)


def _select_matmul_forward(exact, parts, side, choice, x):
    return select_matmul(exact, parts, side, choice, x), choice


def _select_matmul_backward(exact, parts, side, choice, g):
    return None, _select_matmul(exact, parts, side, 1, choice, g)


select_matmul.defvjp(_select_matmul_forward, _select_matmul_backward)


def _select_matmul(exact, parts, side, transposed, choice, x):
    pieces = [x] if exact else _split(x, parts)
    choice = choice.astype(pieces[0].dtype)
    depth = choice.shape[1 - transposed]
    if side == "left" and len(pieces) > 1 and depth < LANES and depth % PACKED_SUBLANES == 0:
        choice = jnp.concatenate([choice] * len(pieces), 1 - transposed)
        return _contract((1 - transposed, 0), choice, jnp.concatenate(pieces))
    if side == "left":
        return sum(_contract((1 - transposed, 0), choice, piece) for piece in pieces)
    return sum(_contract((1, transposed), piece, choice) for piece in pieces)


def _split(x, parts):
    """Split x (float32) into bfloat16 arrays, of 8 bits each, that sum to x."""
    pieces = []
    for _ in range(parts):
        pieces.append(x.astype(jnp.bfloat16))
        x = x - pieces[-1].astype(jnp.float32)
    return pieces


def _contract(over, x, y):
    dims = (((over[0],), (over[1],)), ((), ()))
    precision = precision_of(x.dtype)
    return jax.lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


def interleave(function, arguments):
    """Return [function(*each) for each of the arguments], traced in lockstep.

    Each operation is issued for all arguments before the next one. Mosaic mostly keeps the order of
    operations, so one chain computes while another waits for a matmul.

    Args:
      function: maps pytrees of arrays to a pytree of arrays.
      arguments: tuples of arguments, all of the same shapes.
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments[0])
    program = traced.jaxpr
    shared = dict(zip(program.constvars, traced.consts, strict=True))
    each = [dict(zip(program.invars, jax.tree.leaves(x), strict=True)) for x in arguments]

    def read(own, name):
        if isinstance(name, Literal):
            return name.val
        return own[name] if name in own else shared[name]

    for step in program.eqns:
        names = list(dict.fromkeys(x for x in step.invars if not isinstance(x, Literal)))
        debug = program.debug_info.with_unknown_names()
        alone = Jaxpr([], names, step.outvars, [step], debug_info=debug)
        differs = any(name in each[0] for name in names)
        for own in each if differs else [shared]:
            values = jax.core.eval_jaxpr(alone, [], *(read(own, name) for name in names))
            own.update(zip(step.outvars, values, strict=True))
    tree = jax.tree.structure(shape)
    return [jax.tree.unflatten(tree, [read(own, x) for x in program.outvars]) for own in each]
