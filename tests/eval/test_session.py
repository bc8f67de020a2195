"""A saved and resumed session equals an uninterrupted one."""

import numpy as np
import pytest

import eval.sample
from eval.sample import sample
from jaxmodels.data import ByteTokenizer
from jaxmodels.errors import UserError
from jaxmodels.generation.sampling import Sampling
from jaxmodels.session import Session, load_session, save_session
from tests.eval.tiny_bytes import Toy

PROMPT = "We the people"


@pytest.fixture(scope="module")
def model():
    return Toy()


def draw(model, prompt, tokens, session=None, choice=Sampling(temperature=1.1)):  # noqa: B008
    """Return the drawn tokens; text would differ where a session splits a character."""
    pieces = []

    class Raw(ByteTokenizer):
        def stream(self, context=()):
            return self

        def push(self, tokens):
            pieces.extend(tokens)
            return "x"

        def finish(self):
            return ""

    list(sample(model, Raw(name="raw"), prompt, tokens=tokens, session=session, choice=choice))
    return pieces


@pytest.mark.parametrize("first", [32, 45, 70])
def test_resumed_session_equals_uninterrupted_one(model, tmp_path, first):
    whole = draw(model, PROMPT, 100)
    session = Session(None)
    start = draw(model, PROMPT, first, session)
    assert (session.tokens_read, session.drawn) == (len(PROMPT) + first, first)
    save_session(session, model, tmp_path / "s")
    again = load_session(tmp_path / "s", model)
    assert start + draw(model, "", 100 - first, again) == whole
    assert again.tokens_read == len(PROMPT) + 100


def test_prompt_continues_from_the_state(model):
    session = Session(None)
    tokens = draw(model, PROMPT, 40, session)
    answer = draw(model, "A", 2, session)

    def logits(text):
        tokens = np.frombuffer(text, np.uint8)[None].astype(np.int32)
        return model(model.initial_state(1), tokens)[1].logits[:, -1]

    whole = logits(PROMPT.encode() + bytes(tokens) + b"A" + bytes(answer))
    np.testing.assert_allclose(session.logits, whole, atol=1e-4)
    # The earlier text has an effect.
    assert float(abs(logits(b"A" + bytes(answer)) - whole).max()) > 1e-2


def test_new_session_does_not_change_the_text(model):
    assert draw(model, PROMPT, 45, Session(None)) == draw(model, PROMPT, 45)


def test_command_line(finished, tmp_path, capsys):
    run = [f"--workdir={finished}", "--prompt=the people", "--seed=3"]
    assert eval.sample.main([*run, "--tokens=60"]) == 0
    whole = capsys.readouterr().out
    file = tmp_path / "s.state"
    assert eval.sample.main([*run, "--tokens=41", f"--state-out={file}"]) == 0
    start = capsys.readouterr().out
    rest = [f"--workdir={finished}", "--seed=3", "--tokens=19", f"--state-in={file}"]
    assert eval.sample.main(rest) == 0
    assert start[:-1] + capsys.readouterr().out == whole
    assert eval.sample.main([*rest, f"--state-out={file}"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert eval.sample.main([*run, "--follow", f"--state-out={tmp_path / 'new'}"]) == 2
    assert "--follow" in capsys.readouterr().err


def test_batched_session_is_rejected(finished, tmp_path, capsys):
    toy = Toy()
    save_session(Session(toy.initial_state(2)), toy, tmp_path / "two")
    assert eval.sample.main([f"--workdir={finished}", f"--state-in={tmp_path / 'two'}"]) == 2
    assert "expected a batch of 1 session, got 2" in capsys.readouterr().err


def test_state_without_logits_reads_a_line_break(model):
    session = Session(model.initial_state(1))
    assert len(draw(model, "", 5, session)) == 5 and session.tokens_read == 6


def test_zero_tokens_are_rejected(model):
    with pytest.raises(UserError, match="tokens=0"):
        sample(model, ByteTokenizer(), "x", tokens=0, session=Session(None))
