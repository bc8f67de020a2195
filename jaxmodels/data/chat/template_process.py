"""The process that renders a chat template, which is another's program.

Run by `template.py`. Reads requests, a JSON object a line, and answers each with one: "text" or
"error". A limit of memory holds for it alone, and who started it ends it when it takes too long.
"""

import contextlib
import datetime
import json
import sys


def environment():
    """Return Jinja's environment as transformers sets it up (utils/chat_template_utils.py)."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """Tags around what a model is trained on: no effect on the text."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        # Jinja's own escapes characters of HTML.
        options = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    extensions = [Generation, jinja2.ext.loopcontrols]
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    return made


def answer(made, compiled: dict, request: dict) -> dict:
    """Return {"text"} or {"error"} of a request: template, variables, now, most characters."""
    source, now = request["template"], datetime.datetime.fromisoformat(request["now"])
    made.globals["strftime_now"] = now.strftime
    try:
        if source not in compiled:
            compiled.clear()
            compiled[source] = made.from_string(source)
        pieces, size = [], 0
        for piece in compiled[source].generate(**request["variables"]):
            size += len(piece)
            if size > request["most"]:
                return {"error": f"its text is longer than {request['most']:,} characters"}
            pieces.append(piece)
        return {"text": "".join(pieces)}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except Exception as error:  # whatever a template can do wrong
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        return {"error": f"{where}{error}"[:300] or type(error).__name__}


def limit(memory: int) -> None:
    """Limit this process to `memory` bytes and to no files, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> None:
    """Answer requests until there are no more."""
    made, compiled = environment(), {}
    limit(int(sys.argv[1]))
    print(json.dumps({"text": "ready"}), flush=True)
    for line in sys.stdin:
        reply = answer(made, compiled, json.loads(line))
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
