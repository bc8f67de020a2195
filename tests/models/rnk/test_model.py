"""RNK: the parallel pass is the streaming one, nothing looks ahead, and each leak is seen."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.errors import UserError
from jaxmodels.models.rnk.config import INTENTS, PRESETS, RNKConfig
from jaxmodels.testing.lab import quick_jit
from jaxmodels.tree import flatten
from tests.models.rnk.small import CHUNKINGS, by_steps, small_config, small_model, text

TIME = 23
VARIANTS = {
    **CHUNKINGS,
    "chunk by chunk": {"decoder_state": "chunk"},
    "smoothed, unrefined": {"plan_smoothing": 0.8, "refine": False},
    "no plan": {"planner": "none", "chunking": "space", "chunk_size": 7},
    "hrm": {"planner": "hrm"},
    "trm, Mamba-2": {"planner": "trm", "mamba": 2, "state_size": 8},
}

MARKED = [
    name if name in (*CHUNKINGS, "chunk by chunk") else pytest.param(name, marks=pytest.mark.slow)
    for name in VARIANTS
]


def read(model, state, tokens, reset=None):
    return model(state, tokens, reset)


call = quick_jit(read)


@pytest.mark.parametrize("name", MARKED)
def test_streaming_equals_the_parallel_pass(name):
    """R-06: values and gradients, from another state than the first, over documents."""
    model = small_model(**VARIANTS[name])
    tokens = text(model.config, 3, 2 * TIME)
    warm, _ = quick_jit(by_steps)(model, model.initial_state(3), tokens[:, :TIME])
    tokens, reset = tokens[:, TIME:], np.random.default_rng(1).random((3, TIME)) < 0.1
    weights = np.random.default_rng(2).normal(size=(3, TIME)).astype(np.float32)

    def loss(run):
        def value(model, state):
            last, out = run(model, state, tokens, reset)
            log_p = jax.nn.log_softmax(out.logits)[..., 97]
            seen = {"logits": out.logits, "stop": out.stop, "ends": out.ends}
            first = sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(last))
            return jnp.sum(weights * (log_p + out.stop)) + first, (last, seen)

        return quick_jit(jax.value_and_grad(value, (0, 1), has_aux=True))

    (_, got), d_got = loss(read)(model, warm)
    (_, want), d_want = loss(by_steps)(model, warm)
    for name, a in flatten({"state": got[0], "out": got[1]}).items():
        b = flatten({"state": want[0], "out": want[1]})[name]
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(d_want))
    for name, a in flatten(d_got[0]).items():
        b = flatten(d_want[0])[name]
        np.testing.assert_allclose(a, b, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize("name", MARKED)
def test_no_logit_sees_its_byte_or_a_later_one(name):
    """Z-03: one row for each byte that is changed; bit for bit, across every border."""
    model = small_model(**VARIANTS[name])
    tokens = text(model.config, 1, TIME, seed=3).repeat(TIME + 1, 0)
    for i in range(TIME):
        tokens[i, i] = ord(" ") if tokens[i, i] != ord(" ") else ord("x")
    state = model.initial_state(TIME + 1)
    _, out = call(model, state, tokens, np.zeros(tokens.shape, bool))
    logits, stop = jax.device_get((out.logits, out.stop))
    for i in range(TIME):
        np.testing.assert_array_equal(logits[i, :i], logits[-1, :i])
        np.testing.assert_array_equal(stop[i, :i], stop[-1, :i])
        # Padding that is replaced by text, too, changes what follows.
        assert (logits[i, i:] != logits[-1, i:]).any()


@pytest.mark.parametrize("name", CHUNKINGS)
def test_no_gradient_reaches_a_later_byte(name):
    """Every byte is another one, so that the rows of both tables tell the positions apart."""
    model = small_model(**CHUNKINGS[name])
    tokens = np.random.default_rng(0).permutation(np.arange(32, 32 + TIME))[None].astype(np.int32)
    state, reset = model.initial_state(1), np.zeros((1, TIME), bool)

    def logit(model, at):
        _, out = model(state, tokens, reset)
        return jnp.sum(out.logits[0, at] * jnp.arange(256.0)) + out.stop[0, at]

    gradient = quick_jit(jax.grad(logit))
    for at in range(TIME):
        g = gradient(model, at)
        for table in (g.embed.table, g.decoder.embed.table):
            assert not np.any(np.asarray(table[...])[tokens[0, at + 1 :]])
        assert np.all(np.any(np.asarray(g.decoder.embed.table[...])[tokens[0, at]]))


@pytest.mark.parametrize("name", CHUNKINGS)
def test_padded_rows_equal_the_rows_alone(name):
    model = small_model(**CHUNKINGS[name])
    tokens = text(model.config, 2, TIME, seed=5)
    padded = np.pad(tokens, [(0, 0), (0, 9)], constant_values=model.config.pad)
    state = model.initial_state(2)
    after, out = call(model, state, tokens)
    after_pad, out_pad = call(model, state, padded)
    np.testing.assert_allclose(out_pad.logits[:, :TIME], out.logits, atol=1e-6)
    if name != "fixed":  # there, padding advances the chunk, which is what it is for
        np.testing.assert_allclose(after_pad.hidden, after.hidden, atol=1e-6)
        np.testing.assert_allclose(after_pad.plan, after.plan, atol=1e-6)


def prompt_and_response(config, response):
    """A row whose prompt fills whole chunks."""
    prompt = [*b"User: hi\nModel: "]
    size = -(-(len(prompt) + 1) // config.chunk_size) * config.chunk_size
    prompt += [config.pad] * (size - 1 - len(prompt)) + [config.begin]
    return np.array([[*prompt, *response]], np.int32), size


def test_intent_reads_the_prompt_alone():
    """R-18, and its leak: with a byte's index for a chunk's, the response decides the intent."""
    for prompt_at, equal in (("end", True), ("byte_index", False)):
        model = small_model(prompt_at=prompt_at)
        outs = []
        for response in (b"hello there, friend", b"I am not sure. Sorry"[:19]):
            tokens, _ = prompt_and_response(model.config, response)
            _, out = call(model, model.initial_state(1), tokens)
            outs.append(jax.device_get((out.intent, out.answerable)))
        assert all(np.array_equal(a, b) for a, b in zip(*outs, strict=True)) == equal


def test_a_plan_of_its_own_chunk_is_seen():
    """The source's leak: byte i changes logits before it."""
    model = small_model(plan_from="own_chunk")
    assert model.step is None
    tokens, size = prompt_and_response(model.config, b"hello there")
    changed = tokens.copy()
    changed[0, size + 3] = ord("z")
    _, before = call(model, model.initial_state(1), tokens)
    _, after = call(model, model.initial_state(1), changed)
    early = np.asarray(before.logits != after.logits)[0, : size + 3].any(-1)
    assert early[size - 1 :].any()


def test_paths_of_the_diagram():
    """R-15: which parameters each head's loss reaches."""
    model = small_model()
    tokens, size = prompt_and_response(model.config, b"hello there, friend")
    state = model.initial_state(1)

    def reached(read):
        def loss(model):
            return jnp.sum(read(model(state, tokens)[1]))

        parts = flatten(quick_jit(jax.grad(loss))(model))
        return {name.split("/")[0] for name, g in parts.items() if np.any(g)}

    encoder = {"embed", "layers"}
    assert reached(lambda out: out.intent) == encoder | {"intent"}
    assert reached(lambda out: out.answerable) == encoder | {"intent", "intents", "answerable"}
    plan = encoder | {"intent", "intents", "planner", "refiner", "start"}
    assert reached(lambda out: out.stop) == plan | {"stop"}
    assert reached(lambda out: out.logits[:, size:]) >= plan - {"start"} | {"decoder"}


LEDGER = {"decoder": 1_972_480, "embed": 65_536, "planner": 856_576, "refiner": 659_456}


@pytest.mark.parametrize(
    ("preset", "total", "parts"),
    [
        ("as_written", 5_398_282, LEDGER | {"layers": 1_314_048}),
        ("as_written_4", 5_836_298, LEDGER | {"layers": 1_752_064}),
        ("as_written_8k", 11_501_066, {"layers": 1_314_048}),
    ],
)
def test_parameter_counts(preset, total, parts):
    """R-03, R-08, R-10, R-11, R-25, R-26."""
    leaves = flatten(jax.eval_shape(lambda: jaxmodels.create(f"rnk/{preset}")))
    counts = {part: 0 for part in parts}
    for name, leaf in leaves.items():
        part = name.split("/")[0]
        counts[part] = counts.get(part, 0) + leaf.size
    assert sum(counts.values()) == total
    assert {part: counts[part] for part in parts} == parts
    heads = sum(counts[part] for part in ("intent", "intents", "stop", "answerable"))
    assert heads + counts["latent"] + counts["relevance"] == 530_186


def test_presets_are_what_the_seed_asks_for():
    config = jaxmodels.make_config("rnk")
    assert (config.vocab_size, config.chunk_size, config.num_layers, config.plan_steps) == (
        256, 32, 4, 5,
    )  # fmt: skip
    assert (config.pad, config.begin, config.end) == (0xFF, 0xFE, 0xFD)
    assert config.intents == INTENTS and INTENTS[5] == "identity"
    for preset in PRESETS:
        jaxmodels.make_config(f"rnk/{preset}")


def shapes_of(jaxpr):
    """Sizes of all arrays in a program, loops and calls included."""
    for equation in jaxpr.eqns:
        yield from (x.aval.size for x in equation.outvars if hasattr(x.aval, "size"))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_of(inner)


@pytest.mark.parametrize("name", CHUNKINGS)
def test_nothing_is_quadratic_in_the_sequence(name):
    """R-07: four times the bytes, at most four times the memory, and no larger array."""
    model = small_model(**CHUNKINGS[name])
    largest, memory = [], []
    for time in (256, 1024):
        tokens, state = np.zeros((1, time), np.int32), model.initial_state(1)
        largest.append(max(shapes_of(jax.make_jaxpr(read)(model, state, tokens, None).jaxpr)))
        compiled = jax.jit(read).lower(model, state, tokens, None).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    assert largest[1] <= 4 * largest[0] and memory[1] <= 4.2 * memory[0]


def test_every_chunk_of_two_documents_has_room():
    """The first byte ends a chunk that was open; then full ones, and prompts as soon as may be."""
    config = small_config()
    for time in (1, 4, 5, 33, 64):
        at, cooldown = np.arange(time), 0
        prompt, reset = np.zeros(time, bool), np.isin(at, (time // 2, time - 1))
        closed, position = 0, config.chunk_size - 1
        for t in at:  # as `read_byte`, with an end of prompt wherever it counts
            if reset[t]:
                position = cooldown = 0
            prompt[t] = cooldown == 0 and t % 3 == 0
            cooldown = config.prompt_gap if prompt[t] else max(cooldown - 1, 0)
            position += 1
            if position == config.chunk_size or prompt[t]:
                closed, position = closed + 1, 0
        assert closed <= config.most_chunks(time)
    assert config.most_chunks(64) == 16 + 2 + 2  # chunks, prompts, documents


def test_too_many_chunks_are_not_silent():
    """Documents of one byte each, with an end of prompt: more chunks than there is room for."""
    model = small_model()
    tokens = np.full((1, 16), model.config.begin, np.int32)
    _, out = call(model, model.initial_state(1), tokens, np.ones((1, 16), bool))
    assert np.isnan(out.logits).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunking": "words"}, "chunking must be one of fixed, space, learned; got 'words'"),
        ({"width": 12}, "width must be a multiple of 8, got 12"),
        ({"min_chunk": 9, "chunking": "space", "chunk_size": 8}, "must not exceed chunk_size=8"),
        ({"latent_weight": 1.0}, "need extras=True"),
        ({"plan_smoothing": 1.0}, r"plan_smoothing must be in \[0, 1\), got 1.0"),
        ({"intents": ("math", "math")}, "intents must be distinct names"),
        ({"ratio_target": 1}, "ratio_target must be above 1, got 1"),
    ],
)
def test_invalid_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        RNKConfig(**fields)


@pytest.mark.parametrize("name", CHUNKINGS)
def test_chunks_end_where_the_rule_says(name):
    config = small_config(**CHUNKINGS[name] | {"chunk_size": 6, "min_chunk": 2})
    model = jaxmodels.create(config)
    line = b"It was the  best, of tim"
    _, out = call(model, model.initial_state(1), np.array([[*line]], np.int32))
    ends = np.flatnonzero(out.ends.closes[0])
    lengths = np.diff([-1, *ends])
    if name == "fixed":
        assert ends.tolist() == [5, 11, 17, 23]
    elif name == "space":
        spaces = {i for i, j in itertools.pairwise(range(len(line))) if chr(line[j]) in " ,"}
        assert all(line[e] in b" ," or n == 6 for e, n in zip(ends, lengths, strict=True)), spaces
        assert ends.tolist()[:3] == [2, 6, 10]
    assert (lengths[1:] >= 2).all() and (lengths <= 6).all()
