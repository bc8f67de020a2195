"""Placement: the step on many devices, and transfer of its state between host and devices.

Two modes run the same function with the same results:

    pmap       data parallel over all devices. The carry and a batch have a leading axis of local
               devices, (devices, rows / devices, ...); the rest is replicated without such an axis.
    shard_map  `jax.jit(jax.shard_map(step, axis_names={"data"}))` over a mesh (data, fsdp, tensor).
               "data" is the step's named axis. The other two are automatic: XLA partitions the
               optimizer over parameters sharded by `parameter_spec`; the model itself runs on
               whole parameters (`fsdp.py`). Of a model with the trait `divided`, "tensor" splits
               those arrays instead, and is named like "data": the model reduces over it.

In the *global form* of a state, which checkpoints hold, the carry is (batch_size, ...) whatever the
number of devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.tree import leaf_name
from train.devices.divided import divided_by
from train.devices.fields import check_rows
from train.devices.fsdp import gathered_once, parameter_spec
from train.model import build_model
from train.step import (
    AXIS,
    DIVIDED,
    TrainState,
    init_train_state,
    make_eval_step,
    make_train_step,
    not_wrapped,
    state_axes,
)

PyTree = Any


class Placement:
    """Compiled steps of an experiment and transfer of its states and batches.

    It spans `devices`, by default all; absent ones (of a topology) need `parallel` "shard_map":

        lowered = placement.step.lower(placement.abstract_train_state(), placement.abstract_batch())

    Attributes:
      step: train_step over all devices; its first argument is donated.
      eval_step: (model, carry, batch) -> (carry, sums, counts); donates nothing.
      mesh: the mesh of the arrays that this process handles.
      data_size: size of the "data" axis, over all processes.
    """

    def __init__(self, config: ConfigDict, devices: Sequence[jax.Device] | None = None):
        self.config = config
        devices = list(jax.devices() if devices is None else devices)
        inner = config.mesh.fsdp * config.mesh.tensor
        if len(devices) % inner:
            raise UserError(
                f"config.mesh: fsdp {config.mesh.fsdp} x tensor {config.mesh.tensor} does not "
                f"divide {len(devices)} devices"
            )
        if inner > 1 and config.parallel != "shard_map":
            raise UserError("config.mesh: fsdp and tensor need --config.parallel=shard_map")
        self._divided = divided_by(config)
        self.data_size = len(devices) // inner
        automatic = inner > 1 and self._divided is None
        if automatic and self.data_size == 1 and devices[0].platform == "cpu":
            raise UserError(
                f"config.mesh: fsdp x tensor takes all {inner} devices; XLA's CPU compiler needs "
                f"at least {2 * inner}, so that rows are split too"
            )
        check_rows(config, self.data_size * config.mesh.fsdp)
        if config.batch_size % jax.process_count():
            raise UserError(
                f"config.batch_size: {config.batch_size} rows do not divide over "
                f"{jax.process_count()} processes"
            )
        shape = (self.data_size, config.mesh.fsdp, config.mesh.tensor)
        self.global_mesh = Mesh(np.array(devices).reshape(shape), (AXIS, "fsdp", "tensor"))
        self.uses_pmap = config.parallel == "pmap"
        self._wrap = gathered_once if config.mesh.fsdp > 1 else not_wrapped
        if self.uses_pmap:
            mine = [d for d in devices if d.process_index == jax.process_index()]
            self.mesh = Mesh(np.array(mine), (AXIS,))
            self._compile_pmap(devices)
        else:
            self.mesh = self.global_mesh
            self._refuse_shared_rows()
            self._compile_shard_map()

    def _compile_pmap(self, devices: list[jax.Device]) -> None:
        # Multi-process pmap always uses every device and requires `devices=None`.
        chosen = devices if jax.process_count() == 1 else None
        axes = state_axes(0, None)
        self.step = jax.pmap(
            make_train_step(self.config, self._wrap),
            axis_name=AXIS,
            in_axes=(axes, 0),
            out_axes=(axes, None),
            donate_argnums=(0,),
            devices=chosen,
        )
        self.eval_step = jax.pmap(
            make_eval_step(self._wrap),
            axis_name=AXIS,
            in_axes=(None, 0, 0),
            out_axes=(0, None, None),
            devices=chosen,
        )

    def _refuse_shared_rows(self) -> None:
        """Reject meshes with a row on devices of two processes: each feeds its own rows."""
        if self.config.mesh.tensor == 1:
            return
        for group in self.mesh.devices.reshape(self.data_size, -1):
            if len({device.process_index for device in group}) > 1:
                raise UserError(
                    f"config.mesh: fsdp={self.config.mesh.fsdp}, tensor={self.config.mesh.tensor} "
                    "put one row on devices of several processes; their product must divide the "
                    "devices of a process"
                )

    def _compile_shard_map(self) -> None:
        # Make size-1 axes manual: XLA cannot partition a Pallas call over automatic axes.
        axes = {AXIS, *(name for name, size in self.mesh.shape.items() if size == 1)}
        self.abstract_state = self._with_shardings(jax.eval_shape(lambda: _fresh(self.config)))
        model = P()
        if self._divided:
            axes.add(DIVIDED)
            model = jax.tree.map(lambda x: x.sharding.spec, self.abstract_state.model)
        specs = state_axes(P(AXIS), P(), model)
        mapped = jax.shard_map(
            make_train_step(self.config, self._wrap),
            mesh=self.mesh,
            in_specs=(specs, P(AXIS)),
            out_specs=(specs, P()),
            axis_names=axes,
            check_vma=False,  # gradients are summed by hand, as under pmap
        )
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state)
        self.step = jax.jit(mapped, donate_argnums=0, out_shardings=(shardings, None))
        self.eval_step = jax.jit(
            jax.shard_map(
                make_eval_step(self._wrap),
                mesh=self.mesh,
                in_specs=(model, P(AXIS), P(AXIS)),
                out_specs=(P(AXIS), P(), P()),
                axis_names=axes,
                check_vma=False,
            )
        )

    # Initial states.

    def template(self) -> TrainState:
        """Return the global form as `ShapeDtypeStruct`s with the shardings to restore into.

        A leaf that `put_state` would split is never whole on one device.
        """
        if not self.uses_pmap:
            return self.abstract_state
        everywhere = NamedSharding(self.global_mesh, P())
        state = jax.eval_shape(lambda: _fresh(self.config))
        rest = _laid_out(state.replace(carry=()), everywhere)
        return rest.replace(carry=_laid_out(state.carry, self._global_rows()))

    def fresh_state(self) -> TrainState:
        """Return the state before the first step, on all devices.

        On a mesh that splits parameters one program creates it shard by shard: the whole state need
        not fit on a device.
        """
        split = self.config.mesh.fsdp * self.config.mesh.tensor > 1
        return self.fresh_program()() if split else self.put_state(_fresh(self.config))

    def fresh_program(self) -> Callable[[], TrainState]:
        """Return the jitted initializer, sharded as the step expects (shard_map only)."""
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state)
        return jax.jit(lambda: _fresh(self.config), out_shardings=shardings)

    def fresh_rows(self) -> PyTree:
        """Return this process's rows of the initial recurrent state, NumPy."""

        def make():  # parameters are not an output, so they are never computed
            return build_model(self.config).initial_state(self.config.batch_size)

        return jax.tree.map(_rows_here, jax.jit(make, out_shardings=self._global_rows())())

    # Shapes, for compiling ahead of time.

    def abstract_train_state(self) -> TrainState:
        """Return the step's first argument as `ShapeDtypeStruct`s with shardings."""
        if not self.uses_pmap:
            return self.abstract_state
        state = jax.eval_shape(lambda: _fresh(self.config))
        carry = jax.tree.map(self._split_shape, state.carry)
        return self._with_shardings(state.replace(carry=carry))

    def abstract_batch(self, labels: dict[str, jax.ShapeDtypeStruct] | None = None) -> PyTree:
        """Return the step's second argument; `labels` adds fields (batch, time, ...)."""
        shape = (self.config.batch_size, self.config.seq_len)
        batch = {"inputs": "int32", "targets": "int32", "weights": "float32", "reset": "bool"}
        batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in batch.items()}
        batch |= labels or {}
        if self.uses_pmap:
            batch = jax.tree.map(self._split_shape, batch)
        return _laid_out(batch, self._rows())

    def _split_shape(self, x) -> jax.ShapeDtypeStruct:
        local = self.mesh.devices.size
        rows = x.shape[0] // self.data_size
        return jax.ShapeDtypeStruct((local, rows, *x.shape[1:]), x.dtype)

    def _with_shardings(self, state: TrainState) -> TrainState:
        def leaf(path, x):
            sharding = NamedSharding(self.mesh, self._spec(leaf_name(path), x.shape))
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        rest = jax.tree_util.tree_map_with_path(leaf, state.replace(carry=()))
        return rest.replace(carry=_laid_out(state.carry, self._rows()))

    def _spec(self, name: str, shape: Sequence[int]) -> P:
        """Return the partition of a leaf of the state over the mesh."""
        if self._divided is None:
            return parameter_spec(name, shape, self.mesh)
        own = name.startswith("model/") and self._divided(name.removeprefix("model/"))
        return P(DIVIDED) if own else P()

    def _rows(self) -> NamedSharding:
        """Return the sharding of rows: over "data", and over "fsdp" without a "tensor" axis.

        XLA aborts when it partitions a look-up over two automatic axes, as in a model that learns
        by local updates.
        """
        if self.config.mesh.fsdp > 1 and self.config.mesh.tensor == 1:
            return NamedSharding(self.mesh, P((AXIS, "fsdp")))
        return NamedSharding(self.mesh, P(AXIS))

    def _global_rows(self) -> NamedSharding:
        """Return the sharding of rows in the global form."""
        return NamedSharding(self.global_mesh, P(AXIS)) if self.uses_pmap else self._rows()

    # Transfer.

    def put_rows(self, tree: PyTree) -> PyTree:
        """Put this process's rows, NumPy (rows, ...), on its devices as the step expects."""
        sharding, local = self._rows(), self.mesh.devices.size
        if self.uses_pmap:
            tree = jax.tree.map(lambda x: x.reshape(local, x.shape[0] // local, *x.shape[1:]), tree)
        if self.uses_pmap or jax.process_count() == 1:
            return jax.device_put(tree, sharding)
        with jax.transfer_guard("allow"):  # JAX counts this explicit transfer as implicit
            return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)

    def put_state(self, state: TrainState) -> TrainState:
        """Put a state in global form on all devices, leaf by leaf.

        Leaves are NumPy arrays, arrays on one device, or arrays sharded like `template`.
        """

        def place(path, x):
            spec = self._spec(leaf_name(path), np.shape(x))
            return self._place(x, NamedSharding(self.mesh, spec))

        rest = jax.tree_util.tree_map_with_path(place, state.replace(carry=()))
        return rest.replace(carry=jax.tree.map(self._place_rows, state.carry))

    def _place(self, x, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        if isinstance(x, jax.Array) and x.sharding == NamedSharding(self.global_mesh, P()):
            # Restored under pmap: already on every device, but over the global mesh.
            here = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, sharding, here)
        return jax.device_put(jax.device_get(x), sharding)

    def _place_rows(self, x) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding == self._global_rows():
            return x if not self.uses_pmap else self.put_rows(_rows_here(x))
        rows = self.config.batch_size // jax.process_count()
        first = jax.process_index() * rows
        return self.put_rows(jax.device_get(x)[first : first + rows])

    def put_scalar(self, value: np.generic) -> jax.Array:
        """Put a replicated scalar on the devices, as `put_state` does."""
        return jax.device_put(value, NamedSharding(self.mesh, P()))

    def global_form(self, state: TrainState) -> TrainState:
        """Return the state in global form, as arrays that all processes share."""
        if self.uses_pmap:
            carry = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state.carry)
            state = state.replace(carry=carry)
        if jax.process_count() == 1 or not self.uses_pmap:
            return state

        def share(tree, spec):
            join = functools.partial(
                jax.make_array_from_process_local_data, NamedSharding(self.global_mesh, spec)
            )
            return jax.tree.map(lambda x: join(np.asarray(x)), tree)

        return share(state.replace(carry=()), P()).replace(carry=share(state.carry, P(AXIS)))

    def fetch(self, x: jax.Array) -> np.ndarray:
        """Return a leaf of the global form as a NumPy array, in every process."""
        if not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        # An array caches its host copy while it lives. Short-lived aliases keep a host that reads
        # leaf after leaf from holding all copies.
        whole = np.empty(x.shape, x.dtype)
        for shard in x.addressable_shards:
            if shard.replica_id == 0 or x.is_fully_replicated:
                data = shard.data
                brief = jax.make_array_from_single_device_arrays(data.shape, data.sharding, [data])
                whole[shard.index] = jax.device_get(brief)
            if x.is_fully_replicated:
                break
        return whole


def _fresh(config: ConfigDict) -> TrainState:
    return init_train_state(build_model(config), config)


def _laid_out(tree: PyTree, sharding: NamedSharding) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _rows_here(x: jax.Array) -> np.ndarray:
    """Return the rows of a global array on this process's devices, in order."""
    parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([jax.device_get(parts[first]) for first in sorted(parts)])
