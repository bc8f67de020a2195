"""Sweeps that ship: every preset can be planned, and entries that are compared are of one size."""

import pytest

from eval.sweep.plan import make_plan
from eval.sweep.spec import read_sweep


@pytest.mark.parametrize(("path", "presets"), [("configs/prernk_relations.py", ("cpu", "smoke"))])
def test_shipped_sweeps_are_planned(path, presets):
    for preset in presets:
        sweep = make_plan(read_sweep(path, preset))
        assert len(sweep.seeds) == (1 if preset == "smoke" else 3)
        assert len({entry.tokens for entry in sweep.entries.values()}) == 1
