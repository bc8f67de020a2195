"""A few inputs of each target; `python -m tests.fuzz` draws thousands."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.target import outcome
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_is_read_or_refused_in_one_line(name, tmp_path):
    target = TARGETS[name]()

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def check(drawn):
        folder = tmp_path / "in"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        outcome(target, folder, drawn)

    check()
