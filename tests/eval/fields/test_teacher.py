"""Commands over several runs: fields that a teacher taught, and tables of several seeds."""

import json

import jax
import numpy as np
import pytest

from eval.fields import seeds, teacher
from eval.fields.taught import CLASSES, class_of
from jaxmodels.errors import UserError
from train.config import complete_config
from train.loop import run


def test_classes_of_bytes():
    kinds = class_of(np.frombuffer("a Z9\n,é".encode(), np.uint8))
    assert [CLASSES[k] for k in kinds] == [
        "letter", "space", "letter", "digit", "space", "punctuation", "other", "other"
    ]  # fmt: skip


def config(text, model, **fields):
    return complete_config(
        {
            "model": model,
            "model_config": {"width": 16, "num_layers": 1} | fields,
            "steps": 8,
            "batch_size": 8,
            "seq_len": 32,
            "eval_every": 8,
            "checkpoint_every": 8,
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
            "data": {"paths": (str(text),), "valid_fraction": 0.3},
        }
    )


@pytest.mark.slow
def test_fields_read_the_queries_keys_and_values_of_a_teacher_with_attention(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 400)
    taught, folder = tmp_path / "transformer", tmp_path / "taught"
    settings = config(text, "transformer", head_size=8, kv_heads=1)
    assert run(settings, taught, quiet=True, devices=jax.devices()[:1]).status == "finished"
    arguments = [f"--teacher={taught}", f"--workdir={folder}", "--steps=4", "--tensors=512"]
    name = "queries, keys and values"
    assert not teacher.main([*arguments, "--contexts=1024", "--fields", name])
    result = json.loads((folder / "teacher.json").read_text())
    assert 0 <= result["fields"][name]["kl"] < 0.7 and result["fields"][name]["r2"] > 0.5
    assert json.loads((folder / "train" / "index.json").read_text())["width"] == 16 + 16 + 2 * 8

    without = tmp_path / "rwkv"
    run(config(text, "rwkv", version=4), without, quiet=True, devices=jax.devices()[:1])
    arguments = [f"--teacher={without}", f"--workdir={tmp_path / 'b'}", "--fields", name]
    assert teacher.main(arguments) == 2
    assert f"{name!r} needs a teacher with attention" in capsys.readouterr().err


@pytest.mark.slow
def test_fields_learn_from_a_teacher_of_the_zoo(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 400)
    taught, folder = tmp_path / "rwkv", tmp_path / "taught"
    settings = config(text, "rwkv", version=4)
    assert run(settings, taught, quiet=True, devices=jax.devices()[:1]).status == "finished"
    names = ["two stages, both losses"]
    arguments = [f"--teacher={taught}", f"--workdir={folder}", "--steps=4", "--tensors=512"]
    assert not teacher.main([*arguments, "--contexts=1024", "--fields", *names])
    result = json.loads((folder / "teacher.json").read_text())
    assert list(result["fields"]) == names and result["training_contexts"] == 4 * 1024
    field = result["fields"][names[0]]
    assert 0 <= field["kl"] < 0.7 and set(field["kl_by_class"]) == set(CLASSES)
    assert (
        -1 <= field["cosine"] <= 1 and field["r2"] > 0.9 and field["kl_by_class"]["digit"] is None
    )
    assert "KL after" in capsys.readouterr().out
    assert (folder / "train" / "index.json").exists()
    # The shards are replayed; those of another text are refused.
    assert teacher.main([*arguments, "--contexts=512", "--fields", *names]) == 2
    assert "shards of other text" in capsys.readouterr().err


def test_seeds_are_joined_and_unlike_runs_refused(tmp_path, capsys):
    for seed, bits in enumerate((2.0, 3.0)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        result = {
            "seed": seed,
            "step": 4,
            "examples": 9,
            "contexts": {},
            "command": "",
            "seconds": 1,
        }
        result |= {"device": "cpu", "versions": {}}
        result["bits"] = {"hft": {"setting": "", "valid": bits, "test": bits + 1}}
        (folder / "field.json").write_text(json.dumps(result))
        row = {"step": 4, "split": "valid", "next_token": bits}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    got = seeds.joined(folders)
    assert got["bits"]["hft"]["valid"] == {"each": [2.0, 3.0], "mean": 2.5, "sd": 0.5**0.5}
    assert got["bits"]["hft"]["test"]["mean"] == 3.5
    assert got["curve"][4]["mean"] == pytest.approx(2.5 / np.log(2))
    assert not seeds.main(["--workdirs", *folders])
    assert "2.500 ± 0.707" in capsys.readouterr().out
    (tmp_path / "1" / "field.json").write_text(json.dumps(result | {"step": 5}))
    with pytest.raises(UserError, match="differ in step"):
        seeds.joined(folders)
