"""Where a state lies: split parameters are whole on no device, from start-up to the digest."""

import re
import weakref

import chex
import jax
import numpy as np
import pytest

from jaxmodels.tree import flatten
from tests.train.corpus import small_text
from tests.train.toy import to_host, toy_config
from train.devices.placement import Placement
from train.io.checkpoint import restore
from train.io.log import digest
from train.io.saving import Checkpoints
from train.model import build_model
from train.step import init_train_state
from train.tasks import open_task

SPLIT = {"parallel": "shard_map", "mesh__fsdp": 2, "mesh__tensor": 2}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text(2000))
    return toy_config(model_config__width=16, data__paths=(str(path),), **SPLIT)


@pytest.fixture(scope="module")
def placement(config):
    return Placement(config)


@pytest.fixture(scope="module")
def fresh(placement):
    with pytest.MonkeyPatch.context() as patch:  # no whole array is put on a device
        patch.setattr(Placement, "put_state", None)
        return placement.fresh_state()


@pytest.fixture(scope="module")
def saved(config, placement, fresh, tmp_path_factory):
    """A run's folder with one checkpoint, of the fresh state."""
    workdir = tmp_path_factory.mktemp("runs") / "split"
    checkpoints = Checkpoints(workdir, config, "text")
    checkpoints.save(1, placement.global_form(fresh), iter(open_task(config).train), None)
    checkpoints.close()
    return workdir


def assert_split(state):
    """Kernels and their moments: a quarter on each device, all four quarters present."""
    kernels = [x for n, x in flatten(state).items() if n.endswith("kernel")]
    assert len(kernels) == 2 * 3  # parameter and two moments
    for x in kernels:
        shapes = {shard.data.shape for shard in x.addressable_shards}
        assert shapes == {(x.shape[0] // 2, x.shape[1] // 2)}
        assert len({str(shard.index) for shard in x.addressable_shards}) == 4


def shardings(state):
    return {name: x.sharding for name, x in flatten(state).items()}


def test_fresh_state_is_created_in_shards(config, placement, fresh):
    assert_split(fresh)
    whole = init_train_state(build_model(config), config)
    # One fused program instead of one per operation may round differently in the last place.
    chex.assert_trees_all_close(to_host(placement, fresh), jax.device_get(whole), rtol=3e-7)
    assert shardings(fresh) == shardings(placement.put_state(whole))


def test_initialiser_has_no_whole_kernel(config, placement):
    program = placement.fresh_program().lower().compile().as_text()
    shapes = set(re.findall(r"\w+\[(\d+,\d+)\]", program))
    assert {"16,16", "8,128"} <= shapes  # parts of cell (32, 32) and head (16, 256)
    assert not {"32,32", "16,256"} & shapes
    whole = jax.jit(lambda: flatten(build_model(config))).lower().compile().as_text()
    assert {"32,32", "16,256"} <= set(re.findall(r"\w+\[(\d+,\d+)\]", whole))


def test_checkpoint_is_restored_in_shards(config, placement, fresh, saved, monkeypatch):
    state = restore(saved, config, placement.template(), None, "text")
    assert_split(state)
    assert state.carry.h.sharding == fresh.carry.h.sharding
    kernel = state.model.cell.kernel[...]
    monkeypatch.setattr(jax, "device_put", whole_only_if_small(jax.device_put))
    state = placement.put_state(state)
    assert state.model.cell.kernel[...] is kernel
    chex.assert_trees_all_equal(to_host(placement, state), to_host(placement, fresh))
    assert shardings(state) == shardings(fresh)


def whole_only_if_small(device_put):
    def checked(x, sharding):
        assert np.ndim(x) < 2
        return device_put(x, sharding)

    return checked


@pytest.mark.parametrize("devices", [1, 4])
def test_sharded_checkpoint_restores_onto_whole_devices(config, placement, fresh, saved, devices):
    other = config.copy_and_resolve_references()
    other.parallel, other.mesh.fsdp, other.mesh.tensor = "pmap", 1, 1
    replicated = Placement(other, jax.devices()[:devices])
    state = replicated.put_state(restore(saved, other, replicated.template(), None, "text"))
    assert state.model.cell.kernel.sharding.is_fully_replicated
    assert state.carry.h.shape == (devices, config.batch_size // devices, 16)
    chex.assert_trees_all_equal(to_host(replicated, state), to_host(placement, fresh))


def test_fresh_rows(config, placement):
    want = jax.device_get(build_model(config).initial_state(config.batch_size))
    chex.assert_trees_all_equal(placement.fresh_rows(), want)


def test_digest_holds_one_leaf_at_a_time(placement, fresh):
    alive = []

    def fetch(x):
        assert all(reference() is None for reference in alive)
        value = placement.fetch(x)
        alive.append(weakref.ref(value))
        return value

    assert digest(fresh, {}, fetch) == digest(to_host(placement, fresh), {})
    assert len(alive) == len(jax.tree.leaves(fresh))
