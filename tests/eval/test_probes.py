"""Probes: equal parameter counts, training of a toy cell, stopping and resuming."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct

from eval.probes import __main__ as command
from eval.probes.model import ProbeConfig, ProbeModel, equal_parameters, state_bytes
from eval.probes.table import markdown, mean_and_spread
from eval.probes.training import Recipe, train_probe
from jaxmodels import count_parameters
from jaxmodels.cells import CELLS
from jaxmodels.cells.base import Cell
from jaxmodels.cells.layers import Linear
from jaxmodels.data.synthetic import InductionHeads
from jaxmodels.errors import UserError

REAL = tuple(CELLS)
TOY = ["--steps=2", "--batch-size=4", "--seeds=2", "--parameters=20000", "--layers=1"]
TOY += ["--tasks", "parity", "--set", "parity.seq_len=6"]


@dataclasses.dataclass(frozen=True)
class LeakyConfig:
    width: int
    head_size: int = 64


@struct.dataclass
class LeakyState:
    average: jax.Array


class LeakyCell(Cell):
    """A small leaky integrator without layer arguments."""

    def __init__(self, config: LeakyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.output = Linear(config.width, config.width, rngs=rngs)

    def initial_state(self, batch_size):
        return LeakyState(jnp.zeros((batch_size, self.config.width), jnp.float32))

    def step(self, state, x, key=None):
        average = 0.5 * state.average + x
        return LeakyState(average), self.output(average)


@pytest.fixture(scope="module", autouse=True)
def leaky():
    """Register two toy cells for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("leaky", "leaky2"):
            patch.setitem(CELLS, name, (LeakyConfig, LeakyCell))
        yield


@pytest.mark.parametrize("cell", REAL)
def test_equal_parameters_of_every_cell(cell):
    for vocab_size in (2, 120):
        config = equal_parameters(cell, vocab_size, 8, 40_000)
        assert config.cell == cell and config.vocab_size == vocab_size
        model = jax.eval_shape(lambda config=config: ProbeModel(config, rngs=nnx.Rngs(0)))
        assert abs(count_parameters(model) - 40_000) <= 800


def test_unreachable_parameter_count():
    with pytest.raises(UserError, match=r"rwkv7: .* 1,000 parameters within 2%"):
        equal_parameters("rwkv7", 64, 64, 1000)


def test_probe_model_uses_the_small_fields():
    config = equal_parameters("leaky", 5, 8, 10_000)
    assert config.width % 16 == 0  # whole heads
    model = jax.eval_shape(lambda: ProbeModel(config, rngs=nnx.Rngs(0)))
    assert [block.cell.config for block in model.blocks] == [LeakyConfig(config.width, 16)] * 2
    assert state_bytes(model) == 2 * 4 * config.width
    rwkv7 = jax.eval_shape(lambda: ProbeModel(ProbeConfig("rwkv7", 5, 8), rngs=nnx.Rngs(0)))
    cells = [block.cell.config for block in rwkv7.blocks]
    assert [(cell.head_size, cell.ranks) for cell in cells] == [(16, (16,) * 4)] * 2
    assert state_bytes(rwkv7) == 2 * 4 * (48 + 3 * 16 * 16)


def test_state_is_carried_between_segments():
    config = ProbeConfig("leaky", 5, 12, width=16, hidden=8)
    model = jax.jit(lambda: ProbeModel(config, rngs=nnx.Rngs(0)))()

    @jax.jit
    def read(tokens, reset):
        start = model.initial_state(2)
        state, first = model(start, tokens[:, :7])
        _, parted = model(start, tokens, reset)
        return (
            model(start, tokens)[1],
            jnp.concatenate([first, model(state, tokens[:, 7:])[1]], 1),
            parted[:, 7:],
            model(start, tokens[:, 7:])[1],
        )

    tokens = np.random.default_rng(0).integers(0, 5, (2, 12))
    whole, joined, parted, fresh = read(tokens, np.arange(12)[None].repeat(2, 0) == 7)
    np.testing.assert_allclose(joined, whole, atol=1e-5)
    np.testing.assert_allclose(parted, fresh, atol=1e-5)  # a reset at token 7
    assert np.abs(fresh - whole[:, 7:]).max() > 1e-2


@pytest.fixture(scope="module")
def learned():
    """Train an easy task twice: repeat the symbol before the last token."""
    task = InductionHeads(seq_len=3, symbols=2)
    config = equal_parameters("leaky", task.vocab_size, 3, 5000, num_layers=1)
    recipe = Recipe(steps=200, batch_size=16, learning_rates=(1e-9, 1e-2), seeds=2)
    seen = []
    outcome = train_probe(task, config, recipe, lambda *call: seen.append(call))
    return outcome, seen, train_probe(task, config, recipe)


def test_training_selects_the_better_rate_and_stops_when_solved(learned):
    outcome, seen, _ = learned
    assert outcome.best == 1  # the other rate is too small
    assert outcome.valid.shape == (2, 2) and outcome.valid[0].max() < 0.8
    assert outcome.accuracy.tolist() == outcome.whole.tolist() == [1.0, 1.0]
    assert outcome.steps == 100 and seen == [(50, 0.0)]
    assert (outcome.loss < 0.3).all()


def test_seeds_differ_and_training_is_repeatable(learned):
    first, _, again = learned
    assert first.loss.tolist() == again.loss.tolist()
    assert first.valid.tolist() == again.valid.tolist()
    assert first.loss[0] != first.loss[1] and first.valid[0, 0] != first.valid[0, 1]


def run(arguments):
    return command.main([*TOY, *map(str, arguments)])


def test_stop_resume_and_output_files(tmp_path, capsys, monkeypatch):
    numbers, page = tmp_path / "probes.json", tmp_path / "probes.md"
    files = ["--json", numbers, "--markdown", page]
    measured = []

    def measure(plan, on_steps=None, original=command.measure):
        if plan.cell == "leaky2" and not measured[1:]:
            measured.append("stopped")
            raise KeyboardInterrupt
        measured.append(plan.cell)
        return original(plan, on_steps)

    monkeypatch.setattr(command, "measure", measure)
    assert run(["--cells", "leaky", "leaky2", *files]) == 130
    assert "with 1 rows finished; continue with --resume" in capsys.readouterr().err
    [row] = json.loads(numbers.read_text())["rows"]
    assert (row["cell"], row["task"]) == ("leaky", "parity")

    assert run(["--cells", "leaky", "leaky2", *files, "--resume"]) == 0
    assert measured == ["leaky", "stopped", "leaky2"]  # the finished one is not repeated
    result = json.loads(numbers.read_text())
    assert result["rows"][0] == row and len(result["rows"]) == 2
    for row in result["rows"]:
        assert len(row["accuracy"]) == 2 and 0.3 < row["accuracy"][0] < 0.7
        assert row["chance"] == 0.5 and row["tokens"] == 2 * 4 * 6 and row["steps"] == 2
        assert abs(row["parameters"] - 20_000) <= 400
        assert not row["solved"] and row["diverged"] == 0 and row["state_bytes"] > 0
        assert list(row["validation"]) == ["0.002", "0.005"]
    printed = capsys.readouterr().out
    assert "parity leaky2: " in printed and "0 min left" in printed
    text = page.read_text()
    assert text == markdown(result)
    assert f"{result['rows'][1]['state_bytes']:,}" in text and "seq_len=6" in text
    assert mean_and_spread(result["rows"][0]["accuracy"]) in text

    assert sorted(path.name for path in tmp_path.iterdir()) == ["probes.json", "probes.md"]

    # An existing file is neither overwritten nor mixed with other settings.
    assert run(["--cells", "leaky", *files]) == 2
    assert "exists; add --resume" in capsys.readouterr().err
    assert run(["--cells", "leaky", *files, "--resume", "--steps=3"]) == 2
    assert "parity leaky has another steps" in capsys.readouterr().err


def test_mean_and_spread_by_hand():
    assert mean_and_spread([0.5]) == "50.0%"
    assert mean_and_spread([0.5, 0.7]) == "60.0% ± 14.1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells", "rwkv77"], "did you mean 'rwkv7'?"),
        (["--tasks", "party"], "did you mean 'parity'?"),
        (["--set", "parity=3"], "expected TASK.FIELD=VALUE"),
        (["--set", "party.seq_len=3"], "did you mean 'parity'?"),
        (["--set", "parity.length=3"], "parity has no field 'length'"),
        (["--set", "parity.seq_len=long"], "seq_len must be an integer >= 1, got 'long'"),
        (["--parameters=10"], "10 parameters within 2%"),
        (["--seeds=0"], "seeds must be at least 1"),
        (["--learning-rates", "0"], "learning rates must be positive"),
        (["--steps=0"], "steps must be at least 1, got 0"),
        (["--resume"], "--resume: needs --json FILE"),
        (["--markdown", "nowhere/probes.md"], "no folder nowhere"),
    ],
)
def test_one_line_errors(arguments, message, capsys):
    assert run(["--cells", "leaky", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_json_files_are_rejected(tmp_path, capsys):
    cases = {
        '{"rows": 3}': "not a result of eval.probes",
        '{"rows": [{"cell": "lstm", "task": "s5", "settings": {"steps": 1}}]}': "row s5 lstm is of",
        '{"rows": [{"cell": "gru", "task": "s5", "settings": {"steps": 1}}]}': "not a result of",
    }
    for text, message in cases.items():
        (tmp_path / "notes.json").write_text(text)
        assert run(["--cells", "leaky", "--json", tmp_path / "notes.json", "--resume"]) == 2
        assert message in capsys.readouterr().err
