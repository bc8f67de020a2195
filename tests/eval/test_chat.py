"""A conversation: valid text whatever the model prefers, a state that is kept, and plain errors."""

import dataclasses
import io
import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from eval.chat import conversation as talking
from eval.chat import guide
from eval.chat.__main__ import main
from eval.chat.conventions import REFUSAL
from eval.chat.conversation import Conversation, Options, Reply, verified
from eval.chat.explain import explain
from jaxmodels.data import ByteTokenizer, WordTokenizer
from jaxmodels.data.chat.exchange import BEGIN, BYTES, END, PAD, prompt_ids
from jaxmodels.generation.engine import MANY
from jaxmodels.generation.sampling import Sampling
from jaxmodels.testing.lab import quick_jit, shaken
from tests.eval.conftest import tiny_config
from tests.eval.tiny_bytes import Toy
from tests.models.rnk.small import SIZES, small_model
from train.io.saving import Checkpoints
from train.model import build_model
from train.step import init_train_state
from train.tasks import open_task

MAMBA = {"vocab_size": 256, "width": 16, "num_layers": 1}
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def rnk():
    return small_model(chunk_size=8)


@pytest.fixture(scope="module")
def mamba():
    return shaken(jaxmodels.create("mamba", seed=0, **MAMBA), 0)


class Fixed(Toy):
    """Model with the same logits (256,) after every byte."""

    def __init__(self, row):
        super().__init__()
        self.row = nnx.Param(jnp.asarray(row))

    def step(self, state, token):
        state, out = super().step(state, token)
        return state, out.replace(logits=self.row[...][None])


def fixed(wanted, gap=1e30, rest=0.0):
    """A model that wants some bytes by a gap over the others."""
    row = np.full(256, rest, np.float32)
    row[list(wanted)] = gap
    return Fixed(row)


def biased(model, **values):
    """A copy of RNK with other biases of its heads."""
    model = jax.tree.map(lambda x: x, model)
    for name, value in values.items():
        bias = getattr(model, name).bias
        getattr(model, name).bias = nnx.Param(jnp.broadcast_to(value, bias.shape))
    return model


def said(model, prompt="hello", session=None, attempt=0, **options):
    turn = Conversation(model, session).hear(prompt)
    reply = Reply(model, turn, Options(**options), attempt)
    assert "".join(reply) == reply.text == bytes(reply.data).decode()
    return reply


def test_every_character_but_controls_is_allowed_and_nothing_else():
    def place_after(data):
        place = guide.START
        for byte in data:
            place = place if place < 0 else guide.TABLE[place, byte]
        return place

    def allowed(data):
        # Python decides; a prefix is allowed if bytes can complete it.
        for rest in itertools.chain([b""], *([b"\x80" * n, b"\xbf" * n] for n in (1, 2, 3))):
            try:
                text = (data + rest).decode()
            except UnicodeDecodeError:
                continue
            if all(ord(c) >= 0x20 and not 0x7F <= ord(c) <= 0x9F for c in text):
                return True
        return False

    edges = (0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    longer = itertools.product(range(0xC0, 0x100), edges, edges, edges)
    for data in map(bytes, itertools.chain(itertools.product(range(256), range(256)), longer)):
        if not {END, 0x0A} & set(data):
            # A character's first byte may still lead to a control character.
            assert bool(place_after(data) >= 0) is allowed(data), data
    for code in (*range(0x20, 0x7F), *range(0xA0, 0xD800, 7), *range(0xE000, 0x110000, 511)):
        assert place_after(chr(code).encode()) == guide.START
    assert not any((guide.TABLE[: guide.FREE, mark] >= 0).any() for mark in (PAD, BEGIN))


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 7, MANY + 1])
@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1.0])
def test_replies_are_valid_whatever_the_model_wants(tokens, temperature):
    lead, astral, escape = {0xE2}, {0xF0, 0xF4}, {0x1B, 0x9B}
    models = [
        *(fixed(wanted) for wanted in (lead, astral, escape, {0x80}, {0xC2}, {PAD, BEGIN, END})),
        fixed(lead, np.inf, -np.inf),
        fixed(lead, 0.0, -np.inf),
    ]
    for model in models:
        reply = said(model, tokens=tokens, choice=Sampling(temperature))
        assert 1 <= len(reply.data) <= tokens
        assert reply.text.isprintable() or "\u00a0" <= reply.text
    # The character that fits is drawn: E2 needs three bytes.
    assert ("\u2000" <= said(models[0], tokens=tokens, choice=GREEDY).text[0]) is (tokens > 2)


@pytest.mark.parametrize("choice", [Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-6)])
def test_restricted_choices_keep_an_allowed_byte(choice):
    assert said(fixed({0xE2, 0xFF}), tokens=5, choice=choice).text


@pytest.mark.parametrize("stop", [END, ord("\n")])
def test_the_end_and_a_line_break_stop(stop):
    class Counts(Toy):
        """Model that says A after the mark, B, C, and then stops."""

        def step(self, state, token):
            state, out = super().step(state, token)
            following = jnp.where(token == BEGIN, ord("A"), token + 1)
            following = jnp.where(token == ord("C"), stop, following)
            return state, out.replace(logits=9 * jax.nn.one_hot(following, 256))

    reply = said(Counts(), choice=GREEDY)
    assert (reply.text, reply.ended) == ("ABC", "model")
    assert said(Counts(), choice=GREEDY, tokens=2).ended == "tokens"


def test_the_seed_decides(mamba):
    texts = [said(mamba, seed=seed, tokens=40).text for seed in (0, 0, 1, 2)]
    texts += [said(mamba, seed=0, tokens=40, attempt=1).text]
    assert texts[0] == texts[1] and len(set(texts)) == 4


@pytest.mark.parametrize("kind", ["fixed", "space", "mamba"])
def test_the_kept_state_has_read_the_whole_conversation(kind, mamba, rnk, monkeypatch):
    monkeypatch.setattr(talking, "PIECE", 16)  # prompts are read in several pieces
    model = {"fixed": rnk, "space": small_model(chunking="space", min_chunk=2), "mamba": mamba}
    model, conversation = model[kind], Conversation(model[kind])
    turns = ["Hello,  you!", "hi", "how are you today,\n my friend?", "well  é", "good"]
    for prompt, reply in zip(turns[::2], [*turns[1::2], None], strict=True):
        turn = conversation.hear(prompt)
        if reply:
            conversation.answer(turn, reply)
    whole = prompt_ids(turns, 8 if kind == "fixed" else 1, 10**4, BYTES)[2]
    assert turn.read + len(turn.end) == len(whole)
    _, out = quick_jit(model)(model.initial_state(1), whole[None])
    np.testing.assert_allclose(turn.heads["logits"], out.logits[:, -1], atol=1e-5)
    if kind != "mamba":
        np.testing.assert_allclose(turn.heads["intent"], out.intent, atol=1e-5)
    forgetful = Conversation(model).hear(turns[-1])
    assert abs(forgetful.heads["logits"] - turn.heads["logits"]).max() > 1e-4


def test_the_stop_head_ends_the_reply_with_its_chunk(rnk):
    free = said(rnk, tokens=40, seed=3)
    assert len(free.data) > 8
    ended = said(rnk, tokens=40, seed=3, stop_above=0.0)
    assert ended.ended == "stop"
    # The first chunk, and the bytes that complete its last character.
    assert free.data.startswith(ended.data) and 8 <= len(ended.data) < 12
    assert said(rnk, tokens=40, seed=3, stop_above=1.0).data == free.data


def test_the_model_ends_a_reply_before_the_stop_head(rnk):
    model = biased(rnk, stop=30.0)
    wanted = 60.0 * jax.nn.one_hot(END, 256) + 30.0 * jax.nn.one_hot(ord("A"), 256)
    model.decoder = biased(model.decoder, output=wanted)
    # The end comes as soon as it may, with the second byte, and closes a chunk of two.
    model.config = dataclasses.replace(model.config, chunk_size=2)
    reply = said(model, stop_above=0.5)
    assert (reply.text, reply.ended) == ("A", "model")


@pytest.mark.parametrize("refine", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_explanations_equal_the_trace(rnk, refine):
    model = rnk if refine else small_model(chunk_size=8, refine=False)
    turn = Conversation(model).hear("hello there")
    reply = Reply(model, turn, Options(tokens=19))
    "".join(reply)
    seen = explain(model, turn, reply)
    whole = np.array([*prompt_ids(["hello there"], 8, 99, BYTES)[2], *reply.data])
    traced = quick_jit(lambda model, tokens: model.trace(tokens))(model, whole)
    places = turn.read + len(turn.end) - 1 + np.array([0, 8, 16])
    assert [x.size for x in seen.chunks] == [8, 8, 3]
    np.testing.assert_allclose(
        [x.plan_norm for x in seen.chunks], traced["plan_norms"][places], rtol=1e-4
    )
    np.testing.assert_allclose([x.stop for x in seen.chunks], traced["stop"][places], rtol=1e-4)
    gates = [x.gate for x in seen.chunks]
    if refine:
        np.testing.assert_allclose(gates, traced["gates"][places], rtol=1e-4)
    else:
        assert gates == [None] * 3
    shares = jax.nn.softmax(turn.heads["intent"][0])
    assert seen.confidence == pytest.approx(float(shares.max()))
    assert model.config.intents.index(seen.intent) == int(shares.argmax())
    assert seen.consistent is False  # it was cut
    assert len(seen.lines()) == 5


def test_an_end_that_opens_a_chunk_is_a_chunk(rnk):
    turn = Conversation(rnk).hear("hello")
    reply = Reply(rnk, turn, Options())
    reply.data, reply.ended = bytearray(b"12345678"), "model"
    assert [x.size for x in explain(rnk, turn, reply).chunks] == [8, 0]
    reply.ended = "stop"
    assert [x.size for x in explain(rnk, turn, reply).chunks] == [8]


def test_verification_draws_until_the_result_is_right(mamba, monkeypatch):
    texts = ["I do not know", "19", "It is 18.", "18"]

    class Scripted:
        def __init__(self, model, turn, options, attempt):
            self.attempt = attempt

        def __iter__(self):
            return iter(texts[self.attempt])

    monkeypatch.setattr(talking, "Reply", Scripted)
    turn = Conversation(mamba).hear("What is 11 + 7?")
    reply, tried, right = verified(mamba, turn, Options(), 4)
    assert (reply.attempt, tried, right) == (2, 3, True)
    reply, tried, right = verified(mamba, turn, Options(), 2)
    assert (reply.attempt, tried, right) == (0, 2, False)


@pytest.fixture
def chat(monkeypatch, capsys):
    """Run the command with a model in memory; return (status, output lines, error)."""

    def run(model, *flags, lines=b"", terminal=False, trained_on="chat", tokenizer=None):
        data = types.SimpleNamespace(format=trained_on)
        config = types.SimpleNamespace(seq_len=200, data=data)
        trained = types.SimpleNamespace(model=model, config=config)
        loaded = trained, tokenizer or ByteTokenizer()
        monkeypatch.setattr("eval.run.load_trained", lambda *_: loaded)
        buffer = io.BytesIO(lines) if isinstance(lines, bytes) else lines
        stdin = types.SimpleNamespace(buffer=buffer, isatty=lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stdin)
        status = main(["--workdir=run", "--tokens=12", *flags])
        out, error = capsys.readouterr()
        return status, out.splitlines(), error

    return run


def test_a_resumed_conversation_continues_as_if_uninterrupted(chat, rnk, tmp_path):
    first, second = b"hello\n", "and you? \N{SNOWMAN}\n".encode()
    flags = "--seed=5", "--refuse-below=0", "--explain"
    _, whole, _ = chat(rnk, *flags, lines=first + second)
    file = str(tmp_path / "talk")
    status, start, _ = chat(rnk, *flags, f"--state-out={file}", lines=first)
    assert status == 0
    _, rest, _ = chat(rnk, *flags, f"--state-in={file}", lines=second)
    assert start + rest == whole
    _, alone, _ = chat(rnk, *flags, lines=second)
    assert alone != rest
    _, once, _ = chat(rnk, *flags, "--prompt=hello")
    assert once == start
    status, _, error = chat(rnk, *flags, f"--state-out={file}", lines=first)
    assert status == 2 and "exists already" in error


def test_what_was_said_before_a_broken_line_is_saved(chat, mamba, tmp_path):
    file = str(tmp_path / "talk")
    status, out, error = chat(mamba, f"--state-out={file}", lines=b"hello\n\xff\n")
    assert (status, len(out), error.count("\n")) == (2, 1, 1)
    assert chat(mamba, f"--state-in={file}", lines=b"again\n")[0] == 0


class Interrupted(io.BytesIO):
    """Standard input that ends in Ctrl-C."""

    def readline(self):
        if line := super().readline():
            return line
        raise KeyboardInterrupt


def test_ctrl_c_keeps_what_was_said(chat, mamba, tmp_path):
    file = tmp_path / "talk"
    status, _, error = chat(mamba, f"--state-out={file}", lines=Interrupted(b"hello\n"))
    assert (status, error) == (130, "") and file.exists()


def test_low_answerability_refuses_and_says_so(chat, rnk):
    unsure = biased(rnk, answerable=-30.0)
    status, out, _ = chat(unsure, "--explain", lines=b"hello\n")
    assert (status, out[0]) == (0, f"{REFUSAL} (answerable 0.00, below 0.50)")
    assert out[1].startswith("  intent ") and len(out) == 2
    assert REFUSAL not in chat(unsure, "--refuse-below=0", lines=b"hello\n")[1][0]
    # The head of a model that was trained on other data means nothing.
    assert REFUSAL not in chat(unsure, lines=b"hello\n", trained_on="text")[1][0]
    assert REFUSAL not in chat(biased(rnk, answerable=30.0), lines=b"hello\n")[1][0]


def test_a_terminal_asks_again_after_bad_input(chat, mamba):
    lines = b"\n\xe2\x28\nhello\n"
    status, out, error = chat(mamba, lines=lines, terminal=True)
    assert status == 0 and error.count("warning: line ") == error.count("\n") == 2
    assert out[0].startswith("User: User: User: Model: ") and out[1] == "User: "


def test_verification_says_what_it_did(chat, mamba):
    digit = fixed({ord("5")}, gap=60.0)
    flags = "--verify=3", "--tokens=1"
    _, out, _ = chat(digit, *flags, lines=b"2 + 3\n2 + 4\nhello\n")
    assert out == [
        *("5", "  verified: reply 1 of at most 3 has the right result"),
        *("5", "  not verified: the first of 3 replies, none with the right result"),
        "5",
    ]


def test_a_long_conversation_warns_once(chat, mamba):
    long = b"x" * 300 + b"\n"
    status, out, error = chat(mamba, lines=long + long)
    assert (status, len(out)) == (0, 2)
    assert error == "warning: 315 bytes so far; the model was trained on 200\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt="], "--prompt: empty prompt; write a message"),
        (["--prompt= \n"], "--prompt: empty prompt"),
        (["--prompt=a\udcff"], "--prompt: not UTF-8, byte 2 is 0xFF"),
        (["--tokens=0"], "tokens=0: give 1 or more"),
        (["--refuse-below=1.5"], "--refuse-below=1.5: give a probability"),
        (["--stop-above=nan"], "--stop-above=nan: give a probability"),
        (["--verify=0"], "--verify=0: give 1 or more"),
        (["--verify=2", "--temperature=0"], "--verify: at --temperature=0"),
        (["--top-p=2"], "top-p=2.0"),
        (["--seed=-1"], "--seed=-1: give a whole number"),
        (["--explain"], "--explain: Mamba has no heads for it"),
        (["--stop-above=0.5"], "--stop-above: "),
        (["--refuse-below=0.5"], "--refuse-below: "),
        (["--state-in=nowhere"], "nowhere"),
        ([], "standard input: empty; write a message a line"),
    ],
)
def test_bad_flags(chat, mamba, flags, message):
    status, out, error = chat(mamba, *flags)
    assert (status, out, error.count("\n")) == (2, [], 1)
    assert message in error


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"hello\n\nhello\n", "line 2: empty prompt; write a message"),
        (b"a\xe2\x28\n", "line 1: not UTF-8, byte 2 is 0xE2; convert it"),
    ],
)
def test_bad_lines(chat, mamba, lines, message):
    status, _, error = chat(mamba, lines=lines)
    assert (status, error) == (2, f"error: {message}\n")


def test_other_models_are_refused(chat, rnk, mamba):
    words = WordTokenizer(("<pad>", "<unk>", "we", "the"))
    ablated = small_model(plan_from="own_chunk")
    for model, tokenizer, reason in (
        (Toy(vocab=4), None, "its vocabulary has 4 tokens"),
        (mamba, words, "its tokenizer is 'word'"),
        (ablated, None, "RNK does not read from left to right"),
        (object(), None, "object does not read from left to right"),
    ):
        status, _, error = chat(model, lines=b"hello\n", tokenizer=tokenizer)
        assert status == 2 and error.count("\n") == 1
        assert (
            error.startswith("error: --workdir=run: no model of the 256 bytes") and reason in error
        )


def test_a_model_that_computes_nan_is_an_error(chat):
    status, _, error = chat(fixed({65}, np.nan), lines=b"hello\n")
    assert (status, error.count("\n")) == (2, 1) and "computes NaN" in error


def untrained_run(folder, texts, model, **sizes):
    """Write the folder of a run before its first step."""
    config = tiny_config(model=model, model_config=sizes)
    config.data.paths = (str(texts),)
    state = init_train_state(build_model(config), config)
    checkpoints = Checkpoints(folder, config, "text")
    checkpoints.save(1, state, iter(open_task(config).train), None)
    checkpoints.close()
    (folder / "config.json").write_text(config.to_json())
    (folder / "tokenizer.json").write_text(ByteTokenizer().to_json())
    return str(folder)


@pytest.mark.parametrize("model", ["rnk", "mamba"])
def test_runs(model, texts, tmp_path, capsys):
    sizes = MAMBA if model == "mamba" else SIZES | {"chunk_size": 8, "vocab_size": 256}
    folder = untrained_run(tmp_path / "run", texts, model, **sizes)
    flags = "--tokens=9", "--prompt=What is 2 + 3?", "--verify=2"
    assert main([f"--workdir={folder}", *flags]) == 0
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "verified" in out and "trained on 16" in error


def test_a_missing_run(tmp_path, capsys):
    assert main([f"--workdir={tmp_path / 'none'}", "--prompt=hello"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
