"""Chat templates: a conversation as the text that a model was trained to continue.

    template = read_template(Path("folder"))
    text = template.render([{"role": "user", "content": "Hi"}])

A template is a program in Jinja that comes with a model. It is rendered as transformers does, in a
sandbox and in a process of its own with limits of time, memory and size: the sandbox alone ends no
endless loop.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxmodels.data.chat import template_process
from jaxmodels.data.readers.files import json_document, read_text
from jaxmodels.data.tokenizers.folder import CONFIG, TEMPLATE, special_tokens
from jaxmodels.errors import UserError, one_line
from jaxmodels.extras import import_extra
from jaxmodels.paths import is_file

ROLES = ("system", "developer", "user", "assistant", "tool")
SECONDS = 5.0  # of a template for one conversation
STARTING = 60.0  # seconds for the process to start
MEMORY = 1 << 30  # bytes of its address space
MOST = 1 << 24  # characters of a rendered conversation
OLDEST = (3, 1, 6)  # of Jinja; earlier sandboxes have known ways out


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the special tokens that it may name.

    Attributes:
      source: the program, in Jinja.
      tokens: special tokens by name, e.g. {"eos_token": "</s>"}.
      name: file that it is from, for messages.
      seconds: longest time for one conversation.
    """

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    name: str = "chat template"
    seconds: float = SECONDS

    def __post_init__(self):
        object.__setattr__(self, "_process", _Process())

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        now: datetime.datetime | None = None,
        **variables,
    ) -> str:
        """Return the text of a conversation, special tokens spelled out.

        Args:
          messages: see `checked_messages`.
          add_generation_prompt: end with what precedes an answer.
          now: the time that the template is told; None = that of the computer.
          variables: others that the template knows, JSON values, e.g. `enable_thinking`.

        Raises:
          UserError: messages that are no conversation or that the template refuses, a template that
            is none, or one that exceeds its limits.
        """
        given = {"tools": None, "documents": None, **self.tokens, **variables}
        given |= {"messages": checked_messages(messages)}
        given |= {"add_generation_prompt": bool(add_generation_prompt)}
        request = {"template": self.source, "variables": given, "most": MOST}
        request["now"] = (now or datetime.datetime.now()).isoformat()
        reply = self._process.ask(request, self.seconds)
        if "text" not in reply:
            raise UserError(f"{self.name}: {one_line(str(reply['error']))}")
        return reply["text"]


def read_template(folder: Path) -> ChatTemplate | None:
    """Return the chat template of a folder, None if it has none.

    chat_template.jinja counts before `chat_template` in tokenizer_config.json: a text, or a list of
    named ones, of which "default" is taken.

    Raises:
      UserError: a field of another type, or no default.
    """
    path = folder / TEMPLATE
    if is_file(path):
        return ChatTemplate(read_text(path).decode("utf-8"), special_tokens(folder), str(path))
    path = folder / CONFIG
    fields = json_document(path, dict, "an object of settings")[0] if is_file(path) else {}
    source = fields.get("chat_template")
    if source is None:
        return None
    if isinstance(source, list):
        named = {entry.get("name"): entry for entry in source if isinstance(entry, dict)}
        if "default" not in named:
            raise UserError(f"{path}: chat_template has no template 'default'")
        source = named["default"].get("template")
    if not isinstance(source, str):
        raise UserError(f"{path}: chat_template is {source!r:.60}, expected a text")
    return ChatTemplate(source, special_tokens(folder), f"{path}: chat_template")


def checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return messages with a role and a text each.

    Args:
      messages: objects with a role of `ROLES` and a content: text, or a list of parts
        {"type": "text", "text": ...}, which are joined by line breaks. A name is kept.

    Raises:
      UserError: anything else; names the message and the field.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UserError(f"messages: expected a list with a message or more, got {messages!r:.60}")
    checked = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise UserError(f"{where}: expected an object, got {message!r:.60}")
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"{where}.role: {role!r:.60} is none of {', '.join(ROLES)}")
        extra = {k: v for k, v in message.items() if k not in ("role", "content") and v is not None}
        if unknown := sorted(map(str, extra.keys() - {"name"})):
            raise UserError(f"{where}.{unknown[0]:.60}: not supported; leave it out")
        name = extra.get("name", "")
        if not isinstance(name, str):
            raise UserError(f"{where}.name: expected a text, got {name!r:.60}")
        text = _text_of(message.get("content"), f"{where}.content")
        checked.append({"role": role, "content": text} | ({"name": name} if name else {}))
    return checked


def _text_of(content, where: str) -> str:
    if isinstance(content, list) and content:
        for i, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                raise UserError(f"{where}[{i}]: only text parts are supported, got {part!r:.60}")
        content = "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise UserError(f"{where}: expected a text or text parts, got {content!r:.60}")
    if any("\ud800" <= symbol <= "\udfff" for symbol in content):
        raise UserError(f"{where}: half of a surrogate pair is no character")
    return content


class _Process:
    """One process of `template_process`, started when first asked and after it was ended."""

    def __init__(self):
        self._lock, self._running, self._end = threading.Lock(), None, lambda: None

    def ask(self, request: dict, seconds: float) -> dict:
        """Return the answer to a request; {"error": reason} if it takes longer than this."""
        with self._lock:
            if self._running is None or self._running.poll() is not None:
                self._start()
            try:
                data = memoryview(json.dumps(request).encode() + b"\n")
                while data:
                    data = data[self._running.stdin.write(data) :]
                line = self._line(time.monotonic() + seconds)
            except BrokenPipeError:
                line = b""
            if not line:
                self._end()
                late = f"it takes longer than {seconds:g} s"
                return {"error": late if line is None else "its process ended (memory?)"}
            return json.loads(line)

    def _start(self) -> None:
        import_extra("jinja2")
        version = importlib.metadata.version("jinja2")
        if tuple(int(x) for x in version.split(".")[:3] if x.isdigit()) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise UserError(f"chat templates need jinja2 {oldest} or later, got {version}")
        self._end()
        command = [sys.executable, "-P", template_process.__file__, str(MEMORY)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._running = subprocess.Popen(command, bufsize=0, **pipes)
        self._end = weakref.finalize(self, _ended, self._running)
        if not self._line(time.monotonic() + STARTING):
            self._end()
            raise UserError("the process that renders chat templates did not start")

    def _line(self, until: float) -> bytes | None:
        """Return a line of the process, b"" at its end, None if none comes in time."""
        pieces = []
        while not pieces or not pieces[-1].endswith(b"\n"):
            out = self._running.stdout.fileno()
            if not select.select([out], [], [], max(until - time.monotonic(), 0))[0]:
                return None
            pieces.append(os.read(out, 1 << 16))
            if not pieces[-1]:
                return b""
        return b"".join(pieces)


def _ended(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
