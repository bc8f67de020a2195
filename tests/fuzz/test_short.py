"""A few inputs of each target; `python -m tests.fuzz` draws thousands."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.target import in_folder
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
        in_folder(target, tmp_path / "in", drawn)

    check()
