"""Time and memory against length, of small models."""

import json

import pytest

from eval.bench.lengths import main, slope

SMALL = ["width=16", "num_layers=1"]
MODELS = ["--models", "rnk", "stack/gru", "--set", "rnk", *SMALL, "hidden_size=16", "chunk_size=8"]
MODELS += ["--set", "stack/gru", *SMALL, "mlp_size=0"]


def test_table_and_json(tmp_path, capsys):
    path = tmp_path / "lengths.json"
    assert main([*MODELS, "--lengths", "64", "16", "--repeats", "1", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert [(row["model"], row["length"]) for row in result["rows"]] == [
        ("rnk", 16), ("stack/gru", 16), ("rnk", 64), ("stack/gru", 64),
    ]  # fmt: skip
    assert all(row["temp_bytes"] > 0 and row["seconds"] for row in result["rows"])
    assert result["parameters"]["stack/gru"] == 2 * 256 * 16 + 6 * 16 * 16 + 6 * 16 + 2 * 16
    assert min(result["decoding"].values()) > 0 and result["command"].startswith("python -m eval.")
    assert "slope of time" in capsys.readouterr().out


def test_slope_is_the_power_of_the_length():
    rows = [{"length": n, "x": 3.0 * n**1.5} for n in (64, 16, 32)]
    assert slope(rows, "x") == pytest.approx(1.5)
    assert slope(rows[:1], "x") is None


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--models", "rnk/as_written"], "rnk/as_written does not read left to right"),
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
