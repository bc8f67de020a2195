"""Abstract layers and whole models, compiled with their gradients for an absent TPU."""

import dataclasses
import time

import jax
from flax import nnx

import jaxmodels
from eval.bench.measure import matmul_parameters
from jaxmodels.cells.base import Cell
from jaxmodels.errors import UserError
from jaxmodels.models.contract import main_term
from train.devices import aot

# Operations of one step per entry of the recurrent state: decay, write and read, counting each
# multiplication and addition; the delta rules read once more and write twice.
STEP_OPERATIONS = {
    "rwkv4": 23,
    "rwkv6": 7,
    "rwkv7": 9,
    "mamba1": 7,
    "mamba2": 5,
    "gated_delta": 7,
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """Abstract layer.

    Attributes:
      cell: a `Cell` with `ShapeDtypeStruct` leaves.
      state: its abstract initial state for a batch.
      extras: further inputs (batch, time, ...), e.g. RWKV-7's v_first.
      flops: model FLOPs per token, forward and backward: (matmuls, recurrence).
    """

    cell: object
    state: object
    extras: tuple
    flops: tuple[float, float]


def chunk_size_of(cell) -> int | None:
    """Return the chunk size of a layer's parallel implementation, or None."""
    config = cell.config
    return getattr(config, "chunk_size", None) or getattr(
        getattr(config, "cell", None), "chunk_size", None
    )


def layer_of(
    name: str,
    width: int,
    chunk_size: int | None,
    batch: int,
    time: int,
    kernel: str | None = None,
) -> Layer:
    """Build the abstract layer of a cell ("rwkv7") or a model preset ("rwkv/7").

    Raises:
      UserError: an unknown name or invalid sizes.
    """
    fields = {"width": width, "dtype": "bfloat16"}
    if kernel is not None:
        fields["kernel"] = kernel
    if chunk_size is not None:
        fields["chunk_size"] = chunk_size
    extras = ()
    if name in jaxmodels.CELLS:
        config_class, cell_class = jaxmodels.CELLS[name]
        if kernel is not None and not hasattr(config_class, "kernel"):
            raise UserError(f"{name} has no custom kernels; omit --kernel")
        config = config_class(**fields)
        cell = jax.eval_shape(lambda: cell_class(config, rngs=nnx.Rngs(0)))
    elif name.partition("/")[0] in jaxmodels.MODELS:
        config = jaxmodels.make_config(name, **fields, num_layers=1, vocab_size=256)
        model = jax.eval_shape(lambda: jaxmodels.create(config))
        cell = jax.eval_shape(lambda model: jax.tree.map(lambda x: x[0], model.layers), model)
        xs = jax.ShapeDtypeStruct((batch, time, width), "float32")
        extras = jax.eval_shape(lambda m, xs: m.extras(m.initial_state(batch), xs), model, xs)
    else:
        raise UserError(
            f"unknown cell {name!r}; choose from: {', '.join(jaxmodels.CELLS)}, or a preset"
        )
    state = jax.eval_shape(lambda cell: cell.initial_state(batch), cell)
    recurrence = _recurrence_flops(name, config, state, batch, time)
    return Layer(cell, state, extras, (6.0 * matmul_parameters(cell), 3.0 * recurrence))


def model_of(
    name: str, sizes: dict, chunk_size: int | None, batch: int, kernel: str | None
) -> Layer:
    """Build an abstract whole model of a preset, as a `Layer` without recurrence FLOPs.

    sizes: width, num_layers and vocab_size.

    Raises:
      UserError: an unknown name or invalid sizes.
    """
    given = {"chunk_size": chunk_size, "kernel": kernel}
    given = {key: value for key, value in given.items() if value is not None}
    if given and hasattr(jaxmodels.make_config(name), "cell_fields"):  # of a stack
        given = {"cell_fields": given}
    config = jaxmodels.make_config(name, **sizes, **given, dtype="bfloat16")
    model = jax.eval_shape(lambda: jaxmodels.create(config))
    state = jax.eval_shape(lambda model: model.initial_state(batch), model)
    return Layer(model, state, (), (6.0 * matmul_parameters(model), 0.0))


def _recurrence_flops(name, config, state, batch, time) -> float:
    """Return the operations per token other than matmuls with parameters."""
    system, _, preset = name.partition("/")
    kind = system + preset
    if kind in STEP_OPERATIONS:
        entries = max(leaf.size for leaf in jax.tree.leaves(state)) // batch
        return float(STEP_OPERATIONS[kind] * entries)
    if kind in ("attention", "transformer"):  # two matmuls with every token in the window
        window = min(config.window, time)
        length = (window * (window + 1) / 2 + (time - window) * window) / time
        return 4.0 * config.width * length
    return 0.0


def compile_layer(layer: Layer, form: str, batch: int, time: int, device) -> tuple[str, float, int]:
    """Compile forward and backward pass of a layer for an absent device.

    Args:
      layer: see `layer_of`.
      form: "call", the parallel implementation, or "scan", `lax.scan` over the step.
      batch, time: sizes of the input (batch, time, width) float32.
      device: one of `train.devices.aot.topology_devices`.

    Returns:
      (optimized HLO text, compile seconds, peak bytes).

    Raises:
      train.devices.aot.DoesNotFit: the device has too little memory.
    """
    width = layer.cell.config.width

    def run(cell, state, xs, extras, reset, cotangent):
        def forward(cell, xs, extras):
            if form == "call":
                state_after, ys = cell(state, xs, reset, None, *extras)
            else:
                state_after, ys = Cell.scan(
                    cell,
                    state,
                    (xs, *extras),
                    reset,
                    step=lambda state, x, key: cell.step(state, x[0], key, *x[1:]),
                )
            return ys, state_after

        ys, pullback, state_after = jax.vjp(forward, cell, xs, extras, has_aux=True)
        return state_after, ys, pullback(cotangent)

    def shape(dims, dtype="float32"):
        return jax.ShapeDtypeStruct(dims, dtype)

    xs = shape((batch, time, width))
    extras = tuple(shape((batch, time, *x.shape[2:]), x.dtype) for x in layer.extras)
    arguments = (layer.cell, layer.state, xs, extras, shape((batch, time), bool), xs)
    return compile_function(run, arguments, device)


def compile_model(layer: Layer, batch: int, time: int, device) -> tuple[str, float, int]:
    """Compile the loss of a whole model and its gradient, with resets; see `compile_layer`."""

    def run(model, state, batch):
        def loss(model):
            state_after, sums = model.loss_sums(state, batch)
            return sums[main_term(model)], state_after

        return jax.value_and_grad(loss, has_aux=True)(model)

    kinds = {"inputs": "int32", "targets": "int32", "weights": "float32", "reset": "bool"}
    tokens = {name: jax.ShapeDtypeStruct((batch, time), kind) for name, kind in kinds.items()}
    return compile_function(run, (layer.cell, layer.state, tokens), device)


def compile_function(function, arguments, device) -> tuple[str, float, int]:
    """Compile a function for abstract arguments; return values and errors as in `compile_layer`."""
    sharding = jax.sharding.SingleDeviceSharding(device)
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )
    start = time.perf_counter()
    try:
        compiled = jax.jit(function).lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        if "vmem" in str(error).lower():
            raise UserError(f"a kernel does not fit in VMEM: {error}") from error
        raise aot.DoesNotFit(aot.distil(str(error)).partition(";")[0]) from error
    seconds = time.perf_counter() - start
    return compiled.as_text(), seconds, compiled.memory_analysis().peak_memory_in_bytes
