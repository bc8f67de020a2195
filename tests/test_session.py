"""A state as a file: what comes back is what was saved, and nothing else comes back."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import jaxmodels
from jaxmodels import session as files
from jaxmodels.errors import UserError
from jaxmodels.session import Session, load_session, save_session
from tests.eval.tiny_bytes import Toy

SMALL = dict(width=16, head_size=8, num_layers=2, vocab_size=20, state_dim=4, attn_window=8)


@pytest.fixture(scope="module")
def model():
    return jaxmodels.create("groundthink", **SMALL)


@pytest.fixture
def saved(model, tmp_path):
    """A file, and the session in it."""
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: rng.standard_normal(x.shape).astype(np.float32), model.initial_state(3)
    )
    session = Session(state, np.ones((3, 20), np.float32), 512, drawn=7, recent=(4, 0, 19))
    save_session(session, model, tmp_path / "s.state")
    return tmp_path / "s.state", session


def rewritten(path, **changes):
    """Return a copy of the file with changed metadata; None removes a field."""
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata() | changes
    other = path.with_name("other.state")
    save_file(arrays, other, {k: v for k, v in metadata.items() if v is not None})
    return other


def test_sessions_round_trip(model, saved):
    path, session = saved
    loaded = load_session(path, model)
    assert jax.tree.structure(loaded.state) == jax.tree.structure(session.state)
    jax.tree.map(np.testing.assert_array_equal, loaded.state, session.state)
    np.testing.assert_array_equal(loaded.logits, session.logits)
    assert (loaded.tokens_read, loaded.drawn, loaded.recent) == (512, 7, (4, 0, 19))


def test_custom_model_without_logits(tmp_path):
    toy = Toy()
    save_session(Session(toy.initial_state(2)), toy, tmp_path / "t")
    assert load_session(tmp_path / "t", toy).logits is None
    with pytest.raises(UserError, match=r"\(2, 16\), expected \(2, 8\)"):
        load_session(tmp_path / "t", Toy(width=8))


def test_sessions_of_other_models_or_configs_are_refused(model, saved):
    path, _ = saved
    with pytest.raises(UserError, match="of the model 'groundthink', not of 'mamba'"):
        load_session(path, jaxmodels.create("mamba", width=16, num_layers=1))
    with pytest.raises(UserError, match=r"alpha=0\.6; this one has 0\.5"):
        load_session(path, jaxmodels.create("groundthink", **SMALL, alpha=0.5))
    # How it computes does not matter.
    same = jaxmodels.create("groundthink", **SMALL, dtype="bfloat16", remat=True, chunk_size=8)
    assert load_session(path, same).tokens_read == 512
    loss = jaxmodels.create("groundthink", **SMALL, l2_wrap=1e-4, importance=1.0)
    assert load_session(path, loss).tokens_read == 512


def test_fields_that_a_model_got_later_have_their_defaults(model, saved):
    """A file of a version whose model had fewer fields is still one of this model."""
    config = files.describe(model)
    del config["alpha"], config["importance"]
    text, digest = json.dumps(config), files.config_hash(config)
    old = rewritten(saved[0], config=text, config_sha256=digest)
    assert load_session(old, model).tokens_read == 512
    with pytest.raises(UserError, match=r"alpha=0\.6; this one has 0\.5"):
        load_session(old, jaxmodels.create("groundthink", **SMALL, alpha=0.5))


def test_damaged_files_are_refused(model, saved, tmp_path):
    path, _ = saved
    data = path.read_bytes()
    for name, content in (("cut", data[:-5]), ("empty", b""), ("text", b"hello, this is text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a complete safetensors file") as error:
            load_session(tmp_path / name, model)
        assert "\n" not in str(error.value)
    flipped = bytearray(data)
    flipped[-1] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(UserError, match="checksum"):
        load_session(tmp_path / "flipped", model)
    with pytest.raises(UserError, match="cannot be read"):
        load_session(tmp_path / "nothing", model)
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "weights")
    with pytest.raises(UserError, match="not a recurrent state"):
        load_session(tmp_path / "weights", model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "4"}, "version 4 is newer than"),
        ({"version": "0"}, "version 0 is too old for"),
        ({"version": "two"}, "its version is damaged"),
        ({"version": "1"}, "not a complete file of version 1"),
        ({"tokens_read": None}, "metadata are damaged"),
        ({"recent": "4 0 x"}, "metadata are damaged"),
        ({"recent": "4 0 18"}, "checksum"),
        ({"batch_size": "x"}, "metadata are damaged"),
        ({"batch_size": "4"}, "expected"),
        ({"config": "{"}, "metadata are damaged"),
        ({"config": json.dumps({"model": "groundthink"})}, "checksum"),
    ],
)
def test_malformed_metadata_are_refused(model, saved, changes, message):
    with pytest.raises(UserError, match=message) as error:
        load_session(rewritten(saved[0], **changes), model)
    assert "\n" not in str(error.value)


def test_version_1_is_migrated(model, saved):
    path, session = saved
    gone = dict.fromkeys(("tokens_read", "drawn", "recent", "sha256"))
    old = rewritten(path, version="1", tokens="99", **gone)
    loaded = load_session(old, model)
    assert (loaded.tokens_read, loaded.drawn) == (99, 0)
    jax.tree.map(np.testing.assert_array_equal, loaded.state, session.state)


def test_version_2_is_migrated(model, saved):
    with safe_open(saved[0], framework="np") as file:
        digest = files._checksum({name: file.get_tensor(name) for name in file.keys()})
    old = rewritten(saved[0], version="2", recent=None, sha256=digest)
    assert load_session(old, model).recent == ()


def test_a_new_version_needs_only_a_migration(model, saved, monkeypatch):
    """As when version 4 will call `drawn` something else."""
    monkeypatch.setattr(files, "VERSION", 4)
    with pytest.raises(UserError, match="version 3 is too old"):
        load_session(saved[0], model)

    def from_3(arrays, metadata):
        return arrays, metadata | {"drawn": "70"}

    monkeypatch.setitem(files.MIGRATIONS, 3, from_3)
    assert load_session(saved[0], model).drawn == 70
    gone = dict.fromkeys(("tokens_read", "drawn", "recent", "sha256"))
    old = rewritten(saved[0], version="1", tokens="5", **gone)
    assert load_session(old, model).drawn == 70  # through all


def test_invalid_saves_are_refused(model, saved, tmp_path):
    path, session = saved
    with pytest.raises(UserError, match="exists already"):
        save_session(session, model, path)
    with pytest.raises(UserError, match="no folder"):
        save_session(session, model, tmp_path / "none" / "s")
    for state in ({"a": np.zeros((2, 3), np.int32)}, {"a": np.zeros((2, 3)), "b": np.zeros((4,))}):
        with pytest.raises(UserError, match="must be float32"):
            save_session(Session(state), model, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
