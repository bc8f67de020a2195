"""Sweeps that ship: every preset can be planned, and entries that are compared are of one size."""

import numpy as np
import pytest

from configs.groundthink import questions
from configs.hrlm import transfer
from eval.sweep.plan import make_plan
from eval.sweep.spec import read_sweep
from jaxmodels.data.readers.metacognition import KINDS

TEXT = "--config.data.paths=('Data/LL',)"
MIXED_TEXT = "--config.data.mixture.text.paths=('Data/LL',)"


QUESTIONS = "configs/groundthink/questions.py"
SWEEPS = [("configs/prernk_relations.py", preset) for preset in ("cpu", "smoke")]
SWEEPS += [("configs/prernk_baselines.py", preset) for preset in ("cpu", "smoke")]
SWEEPS += [(QUESTIONS, f"{name}-smoke") for name in questions.PRESETS]


@pytest.mark.parametrize(("path", "preset"), SWEEPS)
def test_shipped_sweeps_are_planned(path, preset):
    """G-97 to G-99, P-15: entries read as many tokens, and are of one size where they say so."""
    text = {"curriculum-smoke": [MIXED_TEXT]}.get(preset, [] if "relations" in path else [TEXT])
    sweep = make_plan(read_sweep(path, preset) | {"compute": False}, text)
    assert len(sweep.seeds) == (1 if "smoke" in preset else 3)
    assert len({entry.tokens for entry in sweep.entries.values()}) == 1
    for entry in sweep.entries.values():
        assert not entry.match or abs(sweep.difference(entry)) < 0.05


@pytest.mark.parametrize("preset", ["cpu", "language", "smoke"])
def test_transfer_starts_half_of_the_runs_from_the_base(preset, tmp_path):
    """L-79: a new task or language, with and without the weights of another run."""
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"the number {i}\tla numero {i}\n" for i in range(99)))
    data = [f"--config.data.paths=('{pairs}',)"] if preset == "language" else []
    sweep = make_plan(read_sweep("configs/hrlm/transfer.py", preset), data)
    base = transfer.get_config()
    for new, old, _ in sweep.questions.values():
        moved, scratch = (sweep.entries[name] for name in (new, old))
        assert (moved.config.init_from, scratch.config.init_from) == (transfer.BASE, "")
        assert moved.config.data == scratch.config.data
        assert set(moved.config.data.tasks).isdisjoint(base.data.tasks)
    if preset != "smoke":  # weights fit: the base has the same fields and the same tokenizer
        assert moved.config.data.tokenizer == base.data.tokenizer
        for name, value in base.model_config.items():
            assert moved.config.model_config[name] == value


def test_kinds_have_phases_and_the_control_has_their_amounts():
    """G-98: the curriculum orders content; the mixture reads as much of each kind."""
    sweep = make_plan(questions.get_sweep("curriculum-smoke"), [MIXED_TEXT])
    spans = np.diff([0.0, *sweep.baseline.config.data.mixture_ends])

    def table(entry):
        mixture = sweep.entries[entry].config.data.mixture
        return {name: np.array(source.weights) for name, source in mixture.items()}

    ordered, mixed, reverse = table("curriculum"), table("mixed"), table("reverse")
    for kind in KINDS:
        assert np.count_nonzero(ordered[kind]) == np.count_nonzero(reverse[kind]) == 1
        assert len(set(mixed[kind])) == 1
        assert mixed[kind] @ spans == pytest.approx(ordered[kind] @ spans)
    phases = [[int(np.argmax(x[kind])) for kind in KINDS] for x in (ordered, reverse)]
    assert phases == [[0, 1, 2, 3], [3, 2, 1, 0]]
    for entry in (ordered, mixed, reverse):
        np.testing.assert_allclose(sum(entry.values()), 1.0)
    assert not any(table("text alone")[kind].any() for kind in KINDS)
