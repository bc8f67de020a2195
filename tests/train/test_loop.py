"""The loop: what it writes, how it resumes, what it refuses. All on the toy, two devices."""

import json
import shutil

import jax
import numpy as np
import pytest

import train.devices.placement
import train.io.manifest
import train.loop
from jaxmodels.errors import UserError
from jaxmodels.tree import flatten
from tests.train.corpus import small_text
from tests.train.toy import toy_config
from train.config import from_json
from train.devices.signals import Signals
from train.io.checkpoint import load_model, restore, saved_steps
from train.io.log import read_metrics, truncate_log
from train.io.manifest import find_corruption
from train.loop import run
from train.model import build_model
from train.step import component_names, init_train_state
from train.tasks import open_task

CHECKPOINT_EVERY, STEPS = 6, 20


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text())
    return str(path)


@pytest.fixture(scope="module")
def config(text):
    return toy_config(
        steps=STEPS, checkpoint_every=CHECKPOINT_EVERY, log_every=4, data__paths=(text,)
    )


def train_run(config, workdir, devices=2, **kwargs):
    return run(
        config.copy_and_resolve_references(),
        workdir,
        quiet=True,
        devices=jax.devices()[:devices],
        **kwargs,
    )


def changed(config, **changes):
    other = config.copy_and_resolve_references()
    for name, value in changes.items():
        *groups, last = name.split("__")
        node = other
        for group in groups:
            node = node[group]
        node[last] = value
    return other


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, train_run(config, workdir)


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """A run asked to stop after step 15: checkpoints 6, 12 and 15, of which it keeps two."""
    workdir = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 15)
        result = train_run(config, workdir)
    assert (result.status, result.step) == ("interrupted", 15)
    return workdir


@pytest.fixture
def half(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "half")
    return tmp_path / "half"


def stop_at(patch, step):
    calls = iter(range(1, 10**6))
    patch.setattr(Signals, "stop_requested", lambda self, agree_now: next(calls) == step)


def test_files_of_a_finished_run(whole):
    workdir, result = whole
    assert (result.status, result.step, len(result.digest)) == ("finished", STEPS, 64)
    lines = read_metrics(workdir)
    steps = [(line["step"], line.get("split")) for line in lines]
    assert steps == [
        (4, "train"),
        (8, "train"),
        (10, "valid"),
        (12, "train"),
        (16, "train"),
        (20, "train"),
        (20, "valid"),
        (20, None),
    ]
    assert lines[-1] == {"final": True, "step": STEPS, "digest": result.digest}
    assert lines[0]["loss"] > lines[-3]["loss"]
    assert lines[0]["bits_per_byte"] == pytest.approx(lines[0]["next_token"] / np.log(2), rel=1e-6)
    assert {"accuracy", "grad_norm", "learning_rate", "weight/activity"} <= lines[0].keys()
    timing = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    assert timing[0]["compile_seconds"] > 0
    assert all(line["bytes_per_second"] > 0 for line in timing)
    assert list(workdir.glob("events.*"))
    assert from_json((workdir / "config.json").read_text()).steps == STEPS
    assert json.loads((workdir / "tokenizer.json").read_text()) == {"kind": "byte"}


def test_carried_state_may_be_a_bare_array(config, whole, tmp_path, monkeypatch):
    """The same run as with a dataclass around it, stopped and resumed; a NaN in it has a name."""
    bare = changed(config, model="tests.train.toy:create_bare")
    with monkeypatch.context() as patch:
        stop_at(patch, 15)
        train_run(bare, tmp_path / "w")
    result = train_run(bare, tmp_path / "w", resume=True)
    assert (result.status, result.step) == ("finished", STEPS)
    numbers = [line for line in read_metrics(tmp_path / "w") if "loss" in line]
    assert numbers == [line for line in read_metrics(whole[0]) if "loss" in line]
    state = init_train_state(build_model(bare), bare)
    assert component_names(state)[2] == "carried state"


def test_newest_and_best_checkpoints_are_kept(whole):
    workdir, _ = whole
    assert saved_steps(workdir) == [18, 20]
    for step in (18, 20):
        path = workdir / "checkpoints" / str(step)
        assert (path / "manifest.json").exists()
        assert find_corruption(path) is None


def test_best_checkpoint_is_kept_among_worse_ones(config, tmp_path):
    """With a huge learning rate at the end, validation gets worse after step 4."""
    worse = changed(
        config,
        steps=12,
        eval_every=4,
        checkpoint_every=4,
        keep_last=1,
        optimizer__learning_rate=30.0,
        optimizer__warmup_steps=0,
        optimizer__schedule="constant",
    )
    train_run(worse, tmp_path / "w")
    losses = {
        m["step"]: m["loss"] for m in read_metrics(tmp_path / "w") if m.get("split") == "valid"
    }
    best = min(losses, key=losses.get)
    assert best != 12
    assert saved_steps(tmp_path / "w") == [best, 12]
    assert load_model(tmp_path / "w").step == best
    assert load_model(tmp_path / "w").loss == losses[best]
    assert load_model(tmp_path / "w", "last").step == 12
    with pytest.raises(UserError, match="no whole checkpoint of step 5"):
        load_model(tmp_path / "w", 5)


def test_chosen_steps_are_saved_and_kept(config, tmp_path):
    chosen = changed(
        config,
        steps=8,
        eval_every=0,
        checkpoint_every=4,
        keep_last=1,
        keep_best=0,
        keep_steps=(1, 6),
    )
    train_run(chosen, tmp_path / "w")
    assert saved_steps(tmp_path / "w") == [1, 6, 8]
    for steps in ((0,), (2.5,), (True,)):
        with pytest.raises(UserError, match=r"config\.keep_steps: give steps from 1 on"):
            train_run(changed(chosen, keep_steps=steps), tmp_path / "x")


def test_validation_matches_its_definition(whole, config):
    """Recomputed without the loop: every byte but the first of a document, once."""
    workdir, result = whole
    trained = load_model(workdir, "last")
    assert trained.step == STEPS
    from jaxmodels.data import load_corpus, subsample

    documents = subsample(load_corpus(config.data.paths).valid, config.data.eval_tokens)
    model, total, count = trained.model, 0.0, 0
    rows = -(-sum(map(len, documents)) // config.batch_size)
    stream = np.concatenate([d.tokens for d in documents])
    for start in range(0, len(stream), rows):  # batch_size rows, each from a fresh state
        tokens = stream[start : start + rows + 1].astype(np.int32)[None]
        _, out = model(model.initial_state(1), tokens[:, :-1])
        logp = jax.nn.log_softmax(out.logits[0])
        total -= float(logp[np.arange(tokens.shape[1] - 1), tokens[0, 1:]].sum())
        count += tokens.shape[1] - 1
    assert len(documents) == 1
    assert result.valid["loss"] == pytest.approx(total / count, rel=1e-5)
    assert result.valid["bits_per_byte"] == pytest.approx(total / count / np.log(2), rel=1e-5)


def test_resumed_run_is_bit_identical(whole, half, config):
    assert saved_steps(half) == [12, 15]
    result = train_run(config, half, resume=True)
    assert result.digest == whole[1].digest
    assert (half / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_resuming_twice_changes_nothing(whole, config, tmp_path):
    shutil.copytree(whole[0], tmp_path / "copy")
    assert train_run(config, tmp_path / "copy", resume=True).digest == whole[1].digest
    assert (tmp_path / "copy/metrics.jsonl").read_bytes() == (
        whole[0] / "metrics.jsonl"
    ).read_bytes()


def spoil(newest, how):
    file = max((newest / "training").rglob("d/*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if how == "truncate":
        file.write_bytes(content[:-7])
    elif how == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "delete":
        file.unlink()
    elif how == "manifest":
        (newest / "manifest.json").write_text("{")
    elif how == "metadata":
        (newest / "_CHECKPOINT_METADATA").write_text("")
    elif how == "no manifest, no metadata":
        (newest / "manifest.json").unlink()
        (newest / "model" / "_METADATA").unlink()


def test_truncated_checkpoint_falls_back_to_the_previous(whole, half, config, capsys):
    spoil(half / "checkpoints" / "15", "truncate")
    result = run(config.copy_and_resolve_references(), half, resume=True, devices=jax.devices()[:2])
    out = capsys.readouterr().out
    assert "checkpoint 15 is passed over (damaged, training/" in out
    assert "resuming from step 12" in out
    assert result.digest == whole[1].digest
    assert (half / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert (half / "damaged" / "15").is_dir()


def test_folders_that_are_no_checkpoint(whole, half, config, capsys):
    """Empty, copied in part, a file, or another's: passed over, wherever they stand."""
    folder = half / "checkpoints"
    (folder / "30").mkdir()
    (folder / "3").mkdir()
    shutil.copytree(folder / "15", folder / "16", ignore=lambda *_: ["_CHECKPOINT_METADATA"])
    shutil.copytree(folder / "15", folder / "17", ignore=lambda *_: ["manifest.json", "model"])
    (folder / "18").write_text("")
    (folder / "15 (copy)").mkdir()
    assert (load_model(half, "last").step, load_model(half).step) == (15, 15)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "checkpoint 30 is passed over (an empty folder)"
    assert "checkpoint 16 is passed over (_CHECKPOINT_METADATA is missing)" in said
    with pytest.raises(UserError, match="no whole checkpoint of step 17"):
        load_model(half, 17)
    assert train_run(config, half, resume=True).digest == whole[1].digest
    assert sorted(p.name for p in (half / "damaged").iterdir()) == ["16", "17", "3", "30"]


@pytest.mark.parametrize(
    "how", ["flip", "delete", "manifest", "metadata", "no manifest, no metadata", ""]
)
def test_damage_is_detected(half, config, how):
    spoil(half / "checkpoints" / "15", how)
    data = open_task(config.copy_and_resolve_references())
    iterator, messages = iter(data.train), []
    template = jax.eval_shape(lambda: init_train_state(build_model(config), config))
    state = restore(half, config, template, iterator, data.fingerprint, messages.append)
    assert int(state.step) == iterator.get_state()["next_index"] == (12 if how else 15)
    assert len(messages) == (1 if how else 0)


def test_kill_between_commit_and_manifest(whole, half, config):
    (half / "checkpoints" / "15" / "manifest.json").unlink()
    assert train_run(config, half, resume=True).digest == whole[1].digest


def test_only_the_loaded_checkpoint_is_hashed(half, monkeypatch):
    hashed, checksum = [], train.io.manifest._checksum
    monkeypatch.setattr(
        train.io.manifest, "_checksum", lambda file: hashed.append(file) or checksum(file)
    )
    for which, step in (("best", 15), ("last", 15), (12, 12)):
        hashed.clear()
        assert load_model(half, which).step == step
        path = half.absolute() / "checkpoints" / str(step)
        assert set(hashed) == {f for f in path.rglob("*") if f.is_file()} - {path / "manifest.json"}


@pytest.mark.parametrize("how", ["truncate", "flip", "delete", "manifest", "metadata"])
def test_damaged_checkpoint_is_not_loaded(half, how):
    spoil(half / "checkpoints" / "15", how)
    assert load_model(half, "last").step == load_model(half).step == 12
    with pytest.raises(UserError, match="no whole checkpoint of step 15; choose from: 12, 15"):
        load_model(half, 15)
    assert saved_steps(half) == [12, 15]


def test_no_intact_checkpoint(half, config):
    for step in (12, 15):
        for file in (half / "checkpoints" / str(step) / "model").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(UserError, match="none of its 2 checkpoints is whole"):
        load_model(half)
    with pytest.raises(UserError, match="none of its 2 checkpoints is whole"):
        train_run(config, half, resume=True)


def test_kill_before_the_first_checkpoint_restarts(whole, config, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 4, "split": "train", "loss": 1}\n{"step": 8, "spl'
    )
    assert train_run(config, tmp_path, resume=True).digest == whole[1].digest
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(("devices", "parallel"), [(4, "pmap"), (4, "shard_map")])
def test_resume_on_another_number_of_devices(whole, half, config, devices, parallel):
    """Exact state and data; from there on, rounding of float32."""
    result = train_run(changed(config, parallel=parallel), half, resume=True, devices=devices)
    assert result.status == "finished"
    for got, want in zip(read_metrics(half), read_metrics(whole[0]), strict=True):
        for name in want.keys() - {"digest", "split"}:
            assert got[name] == pytest.approx(want[name], rel=1e-5, abs=1e-6), (name, want["step"])


def test_carried_state_is_stored_in_global_form(stopped, config):
    from orbax.checkpoint import v1 as ocp

    metadata = ocp.checkpointables_metadata(stopped.absolute() / "checkpoints" / "15").metadata
    assert metadata["training"]["carry"]["h"].shape == (config.batch_size, 8)
    assert metadata["model"]["cell"]["kernel"].shape == (16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_config__width": 4}, "config.model_config.width: "),
        ({"batch_size": 4}, "config.batch_size: "),
        ({"optimizer__name": "lion"}, "config.optimizer.name: "),
        ({"seed": 3}, "config.seed: "),
        ({"model": "tests.train.test_step:create_local"}, "config.model: "),
        ({"steps": 14}, "config.steps: "),
    ],
)
def test_checkpoint_of_another_config_is_rejected(half, config, changes, message):
    before = (half / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as error:
        train_run(changed(config, **changes), half, resume=True)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert (half / "metrics.jsonl").read_bytes() == before


def test_checkpoint_of_other_code_format_or_text_is_rejected(half, config, tmp_path, monkeypatch):
    other = tmp_path / "other.txt"
    other.write_text(small_text(5000))
    with pytest.raises(UserError, match=r"config.data.paths: not the text"):
        train_run(changed(config, data__paths=(str(other),)), half, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr("train.io.checkpoint.FORMAT", 2)
        with pytest.raises(UserError, match="checkpoint format 1, but this version reads format 2"):
            train_run(config, half, resume=True)
    with monkeypatch.context() as patch:
        build = train.devices.placement.build_model
        other_code = lambda c: build(changed(c, model_config__width=4))  # noqa: E731
        patch.setattr(train.devices.placement, "build_model", other_code)
        with pytest.raises(
            UserError, match=r"model/cell/bias is .16,. in the checkpoint and .8,. in the model"
        ):
            train_run(config, half, resume=True)


def test_existing_run_is_not_overwritten(half, config):
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        train_run(config, half)


def test_free_fields_may_change_on_resume(half, config):
    longer = changed(config, steps=24, eval_every=12, optimizer__learning_rate=5e-3)
    assert train_run(longer, half, resume=True).step == 24
    assert read_metrics(half)[-1]["step"] == 24


def test_nonfinite_step_halts_with_the_last_good_state(config, tmp_path):
    poisoned = changed(
        config, model_config__poison_step=450
    )  # of 1000: step 9 of 20 completes the harm
    result = train_run(poisoned, tmp_path / "w")
    assert (result.status, result.step) == ("halted", 9)
    assert result.message == "step 10: gradient of cell/bias is not finite"
    assert saved_steps(tmp_path / "w") == [6, 9]
    last = read_metrics(tmp_path / "w")[-1]
    assert last == {"step": 10, "split": "stop", "reason": result.message}
    for leaf in flatten(load_model(tmp_path / "w", "last").model).values():
        assert np.isfinite(leaf).all()
    # The position is that of the good state: the run continues with the rejected batch.
    position = json.loads((tmp_path / "w/checkpoints/9/data/process_0-of-1.json").read_text())
    assert position == {"next_index": 9}
    again = train_run(poisoned, tmp_path / "w", resume=True)
    assert (again.status, again.step, again.message) == ("halted", 9, result.message)


def test_ema_is_validated_and_loaded(config, tmp_path):
    averaging = changed(config, steps=4, eval_every=4, optimizer__ema_decay=0.5)
    train_run(averaging, tmp_path / "w")
    trained = load_model(tmp_path / "w")
    assert trained.averaged
    longer = changed(averaging, steps=8)
    assert train_run(longer, tmp_path / "w", resume=True).status == "finished"


def test_truncate_log_after_a_kill(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "split": "train"}\n{"step": 3, "split": "train"}\n{"final": true, "step": 1}\n'
    )
    truncate_log(path, 2)
    assert path.read_text() == '{"step": 1, "split": "train"}\n'
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "split": "tr')
    truncate_log(path, 2)
    assert path.read_text() == '{"step": 1, "split": "train"}\n'


def test_word_tokenizer_resolves_the_vocabulary(config, tmp_path):
    words = changed(
        config, steps=3, eval_every=3, data__tokenizer="word", model_config__vocab_size=0
    )
    result = train_run(words, tmp_path / "w")
    stored = from_json((tmp_path / "w/config.json").read_text())
    assert 10 < stored.model_config.vocab_size < 30
    assert result.valid["bits_per_byte"] < result.valid["loss"] / np.log(
        2
    )  # a word is several bytes
    with pytest.raises(
        UserError, match=r"config.model_config.vocab_size: 256, but the 'word' tokenizer"
    ):
        train_run(changed(words, model_config__vocab_size=256), tmp_path / "v")
