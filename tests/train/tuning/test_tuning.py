"""Tuned runs: what they learn and store, how they resume, and which base they accept."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest

import jaxmodels
from eval import export
from eval import run as eval_run
from jaxmodels import convert
from jaxmodels.data.tokenizers.folder import files_of, read_tokenizer
from jaxmodels.errors import UserError
from jaxmodels.models.contract import parameters_of
from jaxmodels.tree import flatten
from jaxmodels.tuning import InitialState, learn_state
from tests.data.tokenizers.worlds import family
from tests.train.corpus import small_text
from tests.train.kill_script import assert_same, kill_and_resume
from tests.train.toy import to_host, toy_config
from train.config import complete_config, load_config
from train.devices.placement import Placement
from train.devices.signals import Signals
from train.io.checkpoint import load_model, saved_steps
from train.io.log import read_metrics
from train.loop import _first_state, _open, run
from train.tuning.base import Base, fingerprint_of, open_base, with_base_of

STEPS = 12
KINDS = ("state", "lora")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text(2000))
    return str(path)


@pytest.fixture(scope="module")
def base(text, tmp_path_factory):
    """A finished run of the toy."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    train(base_config(text, steps=6, checkpoint_every=6, eval_every=6), workdir)
    return workdir


def base_config(text, **changes):
    return toy_config(model="tests.train.toy:create_streaming", data__paths=(text,), **changes)


def tuned_config(base, text, kind, **changes):
    """The config of a run that tunes the toy; its model comes from the base."""
    fields = {"steps": STEPS, "checkpoint_every": 4, "eval_every": 6, "log_every": 2} | changes
    config = toy_config(**fields, data__paths=(text,))
    config.model = ""
    config.model_config = {}
    config.data.piece_tokens = 24  # documents start within rows of 16, and between them
    config.tune.base, config.tune.kind = str(base), kind
    config.tune.rank = 3
    config.optimizer.warmup_steps = 0
    # The gradient of `down` starts at 0, as `up` does: Adam would scale up the rounding of what
    # follows, which differs by the order of the sums.
    config.optimizer.eps = 1e-2
    config.optimizer.learning_rate = 0.1
    return config


def train(config, workdir, devices=2, **options):
    devices = jax.devices()[:devices]
    return run(
        config.copy_and_resolve_references(), workdir, quiet=True, devices=devices, **options
    )


def test_another_tokenizer_is_not_ignored():
    base = Base(model=None, name="rwkv/4", fields={}, tokenizer="char", fingerprint="ab")
    config = toy_config(model="rwkv/4", data__tokenizer="char")
    assert with_base_of(config, base).data.tokenizer == "char"
    config.data.tokenizer = "word"
    with pytest.raises(UserError, match=r"^config.data.tokenizer: 'word', but .* reads 'char'"):
        with_base_of(config, base)


@pytest.fixture(scope="module", params=KINDS)
def whole(request, base, text, tmp_path_factory):
    """(kind, folder, result) of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("tuned") / request.param
    return request.param, workdir, train(tuned_config(base, text, request.param), workdir)


def test_it_learns_and_the_base_stays_bit_for_bit(whole, base):
    kind, workdir, result = whole
    assert result.status == "finished"
    losses = [line["next_token"] for line in read_metrics(workdir) if "grad_norm" in line]
    assert losses[-1] < losses[0]
    before = flatten(load_model(base).model)
    trained = load_model(workdir, "last")
    assert trained.config.model == "tests.train.toy:create_streaming"
    if kind == "state":
        assert isinstance(trained.model, InitialState)
        for name, x in before.items():
            np.testing.assert_array_equal(flatten(trained.model)[f"base/{name}"], x)
        assert np.abs(trained.model.initial["h"][...]).max() > 1e-3
        return
    assert type(trained.model).__name__ == "Streaming"  # merged: an ordinary model
    after = flatten(trained.model)
    changed = {name for name in before if np.any(before[name] != after[name])}
    assert changed == {"cell/kernel"}


def test_checkpoints_hold_what_was_learned(whole, base):
    kind, workdir, _ = whole
    own, info = stored(workdir)
    names = {"state": {"initial/h"}, "lora": {f"additions/cell/kernel/{x}/kernel" for x in LORA}}
    assert own["model"].keys() == names[kind]
    moments = [n for n in own["training"] if n.startswith("opt_state") and "/mu" in n]
    assert len(moments) == len(names[kind])
    model = load_model(base).model
    assert info["config"]["tune"]["fingerprint"] == fingerprint_of(model)
    sizes = {name: sum(np.prod(shape) for shape in item.values()) for name, item in own.items()}
    wanted = {"state": 8, "lora": 3 * (16 + 16)}[kind]
    assert sizes["model"] == wanted
    # Two moments, a carry of 8 rows and some counters; the base alone has 4,736.
    assert sizes["training"] < 2 * wanted + 8 * 8 + 10
    assert jaxmodels.count_parameters(model) > 10 * (sizes["model"] + sizes["training"])


LORA = ("down", "up")


def stored(workdir):
    """{item: {array: shape}} of the last checkpoint, and its metadata."""
    from train.io.checkpoint import _metadata

    metadata = _metadata(workdir / "checkpoints" / str(saved_steps(workdir)[-1]))
    items = {
        name: {n: x.shape for n, x in flatten(metadata.metadata[name]).items()}
        for name in ("model", "training")
    }
    return items, metadata.custom_metadata


def test_a_stopped_run_resumes_bit_for_bit(whole, base, text, tmp_path, monkeypatch):
    kind, workdir, result = whole
    config = tuned_config(base, text, kind)
    calls = iter(range(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "stop_requested", lambda self, agree: next(calls) == 7)
        assert train(config, tmp_path / "w").step == 7
    again = train(config, tmp_path / "w", resume=True)
    assert again.digest == result.digest
    numbers = [line for line in read_metrics(workdir) if "final" not in line]
    assert [line for line in read_metrics(tmp_path / "w") if "final" not in line] == numbers


def test_a_killed_run_resumes_bit_for_bit(text, tmp_path):
    """Three SIGKILLs at random moments, against an undisturbed run."""
    base = tmp_path / "base"
    train(toy_config(steps=6, checkpoint_every=6, eval_every=6, data__paths=(text,)), base)
    overrides = (f"--config.tune.base={base}", "--config.tune.kind=lora", "--config.tune.rank=2")
    (tmp_path / "runs").mkdir()
    assert_same(*kill_and_resume(tmp_path / "runs", 3, 0, 60, overrides=overrides))


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": "shard_map"},
        {"parallel": "shard_map", "mesh__fsdp": 2},
        {"optimizer__accumulate": 2},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_devices_agree(kind, changes, base, text, tmp_path):
    """1 and 8 devices, rows accumulated or split over a mesh: one curve to float32 rounding."""
    curves = []
    for count, extra in ((1, {}), (4 if "optimizer__accumulate" in changes else 8, changes)):
        config = tuned_config(base, text, kind, **extra)
        curves.append(curve(config, tmp_path, count))
    for one, other in zip(*curves, strict=True):
        chex.assert_trees_all_close(one, other, rtol=2e-5, atol=1e-6)


def curve(config, tmp_path, devices, steps=4):
    """Losses, gradient norms and learned arrays of some steps."""
    task, placement, _, opened = _open(config, tmp_path / "none", False, jax.devices()[:devices])
    iterator, seen = iter(task.train), []
    state, _, _ = _first_state(task, tmp_path / "none", False, placement, iterator, opened)
    for _ in range(steps):
        before = jax.tree.leaves((state.model, state.opt_state))
        state, metrics = placement.step(state, placement.put_rows(next(iterator)))
        assert all(leaf.is_deleted() for leaf in before)  # donated, the frozen arrays too
        seen.append({name: float(metrics[name]) for name in ("loss", "grad_norm")})
    return [*seen, parameters_of(to_host(placement, state).model)]


def test_memory_of_gradients_and_moments_is_that_of_what_is_learned(base, text, tmp_path):
    config = tuned_config(base, text, "lora")
    task, placement, _, opened = _open(config, tmp_path / "none", False, jax.devices()[:1])
    state, _, _ = _first_state(task, tmp_path, False, placement, None, opened)
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state))
    assert moments < 2 * 3 * (16 + 16) + 10
    assert isinstance(placement, Placement)


def test_a_mesh_that_splits_the_base_gives_the_whole_back(base, text, tmp_path):
    changes = {"parallel": "shard_map", "mesh__fsdp": 2, "mesh__tensor": 2}
    workdir = tmp_path / "w"
    train(tuned_config(base, text, "lora", **changes), workdir, devices=8)
    train(tuned_config(base, text, "lora"), tmp_path / "plain", devices=1)
    ours, plain = (flatten(load_model(w, "last").model) for w in (workdir, tmp_path / "plain"))
    chex.assert_trees_all_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_another_base_is_refused_and_one_that_moved_is_named(whole, base, text, tmp_path):
    kind, workdir, _ = whole
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(base, moved)
    short = {"steps": 3, "checkpoint_every": 3, "eval_every": 3, "seed": 1}
    train(base_config(text, **short), other)
    with pytest.raises(UserError, match=r"other is another model \(SHA-256 \w{12}\) than the one"):
        load_model(workdir, "last", base=other)
    with pytest.raises(UserError, match="another model"):
        train(tuned_config(other, text, kind, tune__fingerprint=pinned(workdir)), tmp_path / "a")
    assert not (tmp_path / "a" / "checkpoints").exists()
    ours, there = load_model(workdir, "last"), load_model(workdir, "last", base=moved)
    chex.assert_trees_all_equal(flatten(ours.model), flatten(there.model))
    gone = tuned_config(tmp_path / "gone", text, kind)
    with pytest.raises(UserError, match=r"config.tune.base: .*gone.*; name its folder by --base"):
        open_base(gone, load_model)
    with pytest.raises(UserError, match="is no tuned model"):
        load_model(base, base=moved)
    # A run goes on with the base where it is now.
    shutil.copytree(workdir, tmp_path / "longer")
    longer = tuned_config(moved, text, kind)
    longer.steps = STEPS + 2
    assert train(longer, tmp_path / "longer", resume=True).step == STEPS + 2


def pinned(workdir):
    return json.loads((workdir / "config.json").read_text())["tune"]["fingerprint"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune__kind": "stat"}, "config.tune.kind: unknown value 'stat'; did you mean 'state'"),
        ({"tune__kind": ""}, "config.tune.kind: say what to learn"),
        ({"tune__base": ""}, "config.tune.base: name the model to tune"),
        ({"tune__rank": 17}, "config.tune.rank: 17 is more than the 16 that cell/kernel"),
        ({"tune__targets": ("cel",)}, "config.tune.targets: no matrix is called 'cel'; did you"),
        ({"model": "mamba"}, "config.model: 'mamba', but"),
        ({"init_from": "runs/x"}, "config.init_from: the weights of a tuned model"),
    ],
)
def test_wrong_settings_are_refused_at_the_door(changes, words, base, text, tmp_path):
    config = tuned_config(base, text, "lora")
    for name, value in changes.items():
        *groups, last = name.split("__")
        (config[groups[0]] if groups else config)[last] = value
    with pytest.raises(UserError) as caught:
        train(config, tmp_path / "w")
    assert words in str(caught.value)
    assert not (tmp_path / "w" / "config.json").exists()


def test_a_fitted_tokenizer_is_that_of_the_base(tmp_path):
    """Another text, which would give other ids to its characters."""
    for name, words in (("one", "abc dcba abcd "), ("two", "cab eca dbca ")):
        (tmp_path / f"{name}.txt").write_text("\n\n".join([words * 40] * 6))
    fields = {"data__tokenizer": "char", "model_config__vocab_size": 0, "checkpoint_every": 3}
    fields |= {"steps": 3, "eval_every": 3, "data__valid_fraction": 0.2}
    train(base_config(str(tmp_path / "one.txt"), **fields), tmp_path / "base")
    config = tuned_config(tmp_path / "base", str(tmp_path / "two.txt"), "lora", **fields)
    config.data.tokenizer, config.data.piece_tokens = "byte", 0  # the base's counts
    train(config, tmp_path / "w")
    files = [(tmp_path / name / "tokenizer.json").read_text() for name in ("base", "w")]
    assert files[0] == files[1]
    assert "char" in files[0]
    assert eval_run.load_run(tmp_path / "w").corpus.tokenizer.name == "char"


def test_a_config_may_leave_its_model_to_the_base():
    assert complete_config({"tune": {"kind": "lora"}}).model == ""
    with pytest.raises(UserError, match="the field 'model' is missing"):
        complete_config({"steps": 3})


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A small RWKV-7 folder of `jaxmodels.convert`."""
    folder = tmp_path_factory.mktemp("base") / "rwkv"
    convert.save(jaxmodels.create("rwkv/7", width=32, num_layers=2, head_size=16), folder)
    return folder


def test_a_converted_folder_is_tuned_evaluated_and_exported(converted, text, tmp_path, capsys):
    config = tuned_config(converted, text, "lora")
    config.steps, config.checkpoint_every = 4, 4
    train(config, tmp_path / "w", devices=1)
    assert json.loads((tmp_path / "w/config.json").read_text())["model"] == "rwkv"
    assert export.main([f"--workdir={tmp_path / 'w'}", str(tmp_path / "out")]) == 0
    merged = convert.load(tmp_path / "out")
    trained = eval_run.load_run(tmp_path / "w", checkpoint="last")
    chex.assert_trees_all_equal(flatten(merged), flatten(trained.model))
    assert type(merged) is type(convert.load(converted))
    assert "5" in capsys.readouterr().out
    # Tuned again, from what was merged.
    again = tuned_config(tmp_path / "w", text, "state")
    again.steps = again.checkpoint_every = 2
    train(again, tmp_path / "again", devices=1)
    assert export.main([f"--workdir={tmp_path / 'again'}", str(tmp_path / "both")]) == 0
    both, learned = convert.load(tmp_path / "both"), load_model(tmp_path / "again", "last").model
    chex.assert_trees_all_equal(flatten(both), flatten(learned))
    assert isinstance(both, InitialState)


@pytest.mark.parametrize("kind", KINDS)
def test_only_ordinary_models_are_bases(kind, converted, text, tmp_path):
    model = convert.load(converted)
    convert.save(jaxmodels.quantize(model), tmp_path / "int8")
    convert.save(learn_state(model), tmp_path / "learned")
    for name, words in ("int8", "has int8 weights"), ("learned", "has learned only an initial"):
        with pytest.raises(UserError, match=f"config.tune.base: .*{name} {words}"):
            train(tuned_config(tmp_path / name, text, kind), tmp_path / "w", devices=1)
    with pytest.raises(UserError, match="int8"):
        learn_state(jaxmodels.quantize(model))


def test_the_tokenizer_of_a_base_is_used_and_travels(text, tmp_path):
    """Also one of the world, in a folder of weights: to the run, and to what is exported."""
    source, base = tmp_path / "source", tmp_path / "base"
    source.mkdir()
    (source / "tokenizer.json").write_text(family("byte_level").to_str(), encoding="utf-8")
    tokenizer = read_tokenizer(source)
    fields = {"version": 4, "width": 16, "num_layers": 1, "channel_size": 16}
    model = jaxmodels.create("rwkv", vocab_size=tokenizer.vocab_size, **fields)
    convert.save(model, base, files=files_of(tokenizer, source))
    config = tuned_config(base, text, "lora", steps=2, checkpoint_every=2)
    train(config, tmp_path / "w", devices=1)
    assert export.main([f"--workdir={tmp_path / 'w'}", str(tmp_path / "out")]) == 0
    for folder in ("w", "out"):
        assert read_tokenizer(tmp_path / folder).to_json() == tokenizer.to_json()


def test_what_was_learned_is_said(converted, text, tmp_path, capsys):
    config = tuned_config(converted, text, "state", steps=2, checkpoint_every=2)
    run(config, tmp_path / "w", devices=jax.devices()[:1])
    out = capsys.readouterr().out
    numbers = 2 * (32 + 32 + 2 * 16 * 16)
    assert f"learning the initial state: {numbers:,} numbers, beside the" in out
    from eval.report.run_page import write_report

    assert (
        f"learning the initial state: {numbers:,} numbers"
        in write_report(tmp_path / "w").read_text()
    )


def test_the_config_of_the_experiment_is_valid():
    config = load_config("configs/tune.py", ["--config.tune.base=runs/base"])
    assert config.tune.kind in KINDS
