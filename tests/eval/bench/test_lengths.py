"""Time and memory against length, of small models."""

import json

import pytest

from eval.bench.lengths import main, slope
from eval.bench.record import Record

SMALL = ["width=16", "num_layers=1"]
MODELS = ["--models", "rnk", "stack/gru", "--set", "rnk", *SMALL, "hidden_size=16", "chunk_size=8"]
MODELS += ["--set", "stack/gru", *SMALL, "--set", "stack/gru", "mlp_size=0"]
NEAR = ["--set", "hrlm@near", "width=16", "low_layers=1", "high_layers=1", "window=4"]


def test_table_and_json(tmp_path, capsys):
    path = tmp_path / "lengths.json"
    flags = [*MODELS, *NEAR, "--lengths", "64", "16", "--repeats", "1", "--json", str(path)]
    flags.insert(flags.index("--set"), "hrlm@near")
    assert main(flags) == 0
    result = json.loads(path.read_text())
    names = ["rnk", "stack/gru", "hrlm@near"]
    assert [(row["model"], row["length"]) for row in result["rows"]] == [
        (name, length) for length in (16, 64) for name in names
    ]
    assert all(row["temp_bytes"] > 0 and row["seconds"] for row in result["rows"])
    assert result["parameters"]["stack/gru"] == 2 * 256 * 16 + 6 * 16 * 16 + 6 * 16 + 2 * 16
    assert list(result["decoding"]) == names[:2] and min(result["decoding"].values()) > 0
    assert result["command"].startswith("python -m eval.bench lengths --models rnk")
    assert result["versions"]["jax"] and result["device"] and result["wall_seconds"] > 0
    assert "slope of time" in capsys.readouterr().out


def test_a_busy_machine_is_told(monkeypatch, capsys):
    monkeypatch.setattr("os.getloadavg", lambda: (2.0, 1.0, 1.0))
    Record("cells", ["--json", "a b"])
    assert "load average 2.0" in capsys.readouterr().err
    record = Record("cells", ["--json", "a b"], timed=False)
    assert capsys.readouterr().err == "" and record.before == 2.0
    assert record.command == "python -m eval.bench cells --json 'a b'"


def test_slope_is_the_power_of_the_length():
    rows = [{"length": n, "x": 3.0 * n**1.5} for n in (64, 16, 32)]
    assert slope(rows, "x") == pytest.approx(1.5)
    assert slope(rows[:1], "x") is None


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--models", "hft"], "hft learns without gradients"),
        (["--lengths", "0"], "--repeats and --lengths must be 1 or more"),
        (["--set", "gru", "width=16"], "--set gru: expected --set MODEL FIELD=VALUE"),
        (["--models", "rnk", "--set", "rnk", "widht=16"], "rnk has no field 'widht'"),
    ],
)
def test_one_line_errors(capsys, flags, says):
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1
