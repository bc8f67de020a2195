"""Chat templates: transformers' texts, one line for a bad one, limits on a hostile one."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import time
from pathlib import Path

import pytest

from jaxmodels.data.chat import template as module
from jaxmodels.data.chat.template import ChatTemplate, checked_messages, read_template
from jaxmodels.data.tokenizers.rwkv_world import CHAT_TEMPLATE
from jaxmodels.errors import UserError
from tests.goldens.chat_templates import CONVERSATIONS, NOW, TEMPLATES, TOKENS, cases

GOLDENS = json.loads(
    (Path(__file__).parents[2] / "goldens" / "chat_templates.json").read_text(encoding="utf-8")
)
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def one():
    """One template with one process: `like` changes its source alone."""
    return ChatTemplate("{{ messages[0].content }}", TOKENS, "chat template")


def like(template, source):
    object.__setattr__(template, "source", source)
    return template


@pytest.mark.parametrize(("name", "conversation", "prompt"), cases())
def test_texts_are_those_of_transformers(one, name, conversation, prompt):
    source = CHAT_TEMPLATE if name == "rwkv_world" else TEMPLATES[name]
    text = like(one, source).render(
        CONVERSATIONS[conversation], add_generation_prompt=prompt, now=NOW
    )
    assert text == GOLDENS[f"{name} {conversation} {prompt}"]


def test_every_golden_text_is_compared():
    assert GOLDENS.keys() == {f"{name} {x} {prompt}" for name, x, prompt in cases()}
    assert "04 Jul 2026" in GOLDENS["llama_3 one True"]


def test_a_template_may_refuse_a_conversation(one):
    twice = [*HI, *HI]
    with pytest.raises(UserError, match=r"^chat template: Roles must alternate, user first$"):
        like(one, TEMPLATES["llama_2"]).render(twice)


def test_variables_reach_the_template(one):
    assert like(one, "{{ thinking }} {{ eos_token }}").render(HI, thinking=True) == "True </s>"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{% if %}", "line 1: Expected an expression"),
        ("\n\n{% endfor %}", "line 3: Encountered unknown tag"),
        ("{{ nothing.at_all }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('a\nb') }}", r"a\\nb$"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include 'x' %}", "no loader"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"),
        ("{{ " + "(" * 1000 + ")" * 1000 + " }}", "recursion"),
        ("{{ 'a' * 10**10 }}", "too much memory"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "longer than 16,777,216 char"),
    ],
)
def test_a_bad_template_gets_one_line(one, source, says):
    with pytest.raises(UserError, match=f"^chat template: .*{says}") as raised:
        like(one, source).render(HI)
    assert "\n" not in str(raised.value)
    assert like(one, "{{ messages[0].content }}").render(HI) == "Hi"


def test_an_endless_template_is_ended_and_the_next_works():
    endless = ChatTemplate(
        "{% if messages[0].content == 'loop' %}{% for i in range(99999) %}"
        "{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}done",
        seconds=2.0,
    )
    assert endless.render(HI) == "done"
    start = time.monotonic()
    with pytest.raises(UserError, match="longer than 2 s"):
        endless.render([{"role": "user", "content": "loop"}])
    assert time.monotonic() - start < 20
    assert endless.render(HI) == "done"


def test_the_process_ends_with_its_template():
    template = ChatTemplate("x")
    template.render(HI)
    process = template._process._running
    assert process.poll() is None
    del template
    gc.collect()
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "a message or more"),
        ("Hi", "messages: expected a list"),
        ({"role": "user"}, "messages: expected a list"),
        (["Hi"], r"messages\[0\]: expected an object"),
        ([{"role": "robot", "content": ""}], r"\[0\].role: 'robot' is none of system, developer"),
        ([*HI, {"content": "Hi"}], r"messages\[1\].role: None"),
        ([{"role": "user"}], r"content: expected a text or text parts, got None"),
        ([{"role": "user", "content": []}], r"content: expected a text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\]: only text parts"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], r"content\[0\]: only text"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
        ([{"role": "user", "content": "", "tool_calls": [1]}], r"\[0\].tool_calls: not supported"),
        ([{"role": "user", "content": "", "name": 3}], r"\[0\].name: expected a text"),
    ],
)
def test_messages_are_checked(messages, says):
    with pytest.raises(UserError, match=says):
        checked_messages(messages)


def test_text_parts_are_joined_and_nulls_left_out():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = {"role": "user", "content": parts, "name": "Ada", "refusal": None}
    assert checked_messages([message]) == [{"role": "user", "content": "a\nb", "name": "Ada"}]


def write(folder, **files):
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def test_templates_of_a_folder(tmp_path):
    assert read_template(tmp_path) is None
    tokens = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"}
    config = tokens | {"add_bos_token": True, "unk_token": None}
    write(tmp_path, tokenizer_config__json=config)
    assert read_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    write(tmp_path, tokenizer_config__json=config | {"chat_template": named})
    read = read_template(tmp_path)
    assert (read.source, read.tokens) == ("d", {"bos_token": "<s>", "eos_token": "</s>"})
    write(tmp_path, tokenizer_config__json=config | {"chat_template": "one"})
    assert read_template(tmp_path).source == "one"
    write(tmp_path, chat_template__jinja="newer {{ bos_token }}")
    assert read_template(tmp_path).render(HI) == "newer <s>"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("[1]", "expected an object of settings"),
        ('{"chat_template": "a', "not valid JSON"),
        ({"chat_template": 3}, "chat_template is 3, expected a text"),
        ({"chat_template": [{"name": "rag", "template": ""}]}, "no template 'default'"),
        ({"chat_template": [{"name": "default"}]}, "expected a text"),
        ({"chat_template": "x", "eos_token": 5}, "'eos_token' is 5, expected a text"),
    ],
)
def test_bad_settings_get_one_line(tmp_path, fields, says):
    write(tmp_path, tokenizer_config__json=fields)
    with pytest.raises(UserError, match=says) as raised:
        read_template(tmp_path)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_an_old_jinja_is_refused(monkeypatch):
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "3.1.2")
    with pytest.raises(UserError, match=r"need jinja2 3\.1\.6 or later, got 3\.1\.2"):
        ChatTemplate("x").render(HI)
    assert importlib.metadata.version("jinja2") == "3.1.2"
