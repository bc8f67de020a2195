"""A short form of `tests/convert/fuzz.py`: a few damaged inputs of every format."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.convert import fuzz

FORMATS = ("torch", "safetensors", "rwkv_cpp", "jaxmodels")
FORMATS += ("huggingface", "huggingface_bin", "mamba_ssm")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return fuzz.sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fuzz.DAMAGE)
def test_damaged_files(name, sources, tmp_path, damage):
    before = fuzz.peak()
    fuzz.write_damaged(sources[name], tmp_path / "damaged", damage)
    assert fuzz.outcome(tmp_path / "damaged") in ("loaded", "refused")
    assert fuzz.peak() - before < fuzz.BYTES
