"""Serve a trained model with the API of OpenAI.

    python -m eval.serve --workdir=runs/name [--port 8000] [--host 127.0.0.1]
                         [--token-file FILE] [--open] [--allow-host NAME]
                         [--sessions FOLDER] [--name NAME] [--slots 8] [--queue 64] ...

`curl http://127.0.0.1:8000/v1/models` says its name; docs/serving.md has the endpoints, what a
session is, the limits, and what is logged. Requests are decoded together, and each gets what it
would get alone. SIGTERM and Ctrl-C end it when running requests are done, or after --drain seconds.

It listens on this computer alone. For others, give --host, and a token in --token-file or in the
environment variable JAXMODELS_TOKEN, or --open for everybody.
"""

import argparse
import asyncio
import dataclasses
import ipaddress
import os
import sys
from pathlib import Path

from eval.serve.limits import Limits
from jaxmodels import cli
from jaxmodels.errors import UserError, from_os
from jaxmodels.extras import import_extra
from jaxmodels.paths import user_path

TOKEN = "JAXMODELS_TOKEN"
LOCAL = ("localhost", "127.0.0.1", "[::1]")


def _flags(arguments: list[str]) -> argparse.Namespace:
    parser = cli.parser("eval.serve", __doc__, workdir=cli.RUN, checkpoint=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 = any that is free")
    file = {"metavar": "FILE", "action": cli.ExpandPath}
    parser.add_argument("--token-file", **file, help="file with the bearer token to ask for")
    parser.add_argument("--open", action="store_true", help="serve others without a token")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME")
    folder = {"metavar": "FOLDER", "action": cli.ExpandPath}
    parser.add_argument("--sessions", **folder, help="saved sessions; WORKDIR/sessions")
    parser.add_argument("--name", help="of the model, for clients; the folder's")
    parser.add_argument("--refuse-below", type=float, help="answerable probability of RNK")
    parser.add_argument("--stop-above", type=float, help="stop probability of RNK")
    for field in dataclasses.fields(Limits):
        option = f"--{field.name.replace('_', '-')}"
        kind = type(field.default)
        parser.add_argument(option, type=kind, default=field.default, metavar="N")
    flags = parser.parse_args(arguments)
    if not 0 <= flags.port < 2**16:
        raise UserError(f"--port={flags.port}: give 0 to 65535")
    return flags


def _token(flags) -> str | None:
    """Return the token to ask for; raise UserError if others could come without one."""
    token = os.environ.get(TOKEN)
    if flags.token_file:
        try:
            token = Path(flags.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token-file {flags.token_file}: cannot be read") from error
    if token is not None and (len(token) < 16 or not token.isascii() or " " in token):
        raise UserError("the token: give 16 or more ASCII characters without spaces")
    if token is None and not flags.open and not _loopback(flags.host):
        raise UserError(
            f"--host={flags.host}: others could use it; give --token-file, {TOKEN} or --open"
        )
    return token


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@cli.command(interrupted="")
def main(arguments: list[str]) -> int | None:
    """Serve until a signal."""
    flags = _flags(arguments)
    limits = Limits(**{x.name: getattr(flags, x.name) for x in dataclasses.fields(Limits)})
    token = _token(flags)
    for package in ("uvicorn", "starlette", "jsonschema", "prometheus_client", "safetensors"):
        import_extra(package)
    from eval.run import load_trained
    from eval.serve.http import serve
    from train.io.lock import one_writer

    trained = load_trained(flags.workdir, flags.checkpoint, flags.base)
    sessions = Path(flags.sessions or Path(flags.workdir) / "sessions")
    hosts = (*LOCAL, *flags.allow_host) if token is None and not flags.open else ()
    with one_writer(sessions, "python -m eval.serve", option="--sessions"):
        service = _service(flags, limits, *trained, sessions)
        try:
            asyncio.run(serve(service, flags.host, flags.port, token=token, hosts=hosts))
        except OSError as error:
            raise from_os(error, f"--host={flags.host} --port={flags.port}") from error
    return None


def _service(flags, limits, trained, tokenizer, sessions):
    from eval.chat.conventions import refusal_threshold, template_of
    from eval.serve.service import Service
    from jaxmodels.data.tokenizers.folder import endings
    from jaxmodels.models.contract import traits_of
    from train.tasks.fields import CHAT_FORMAT

    model, config = trained.model, trained.config
    if not traits_of(model).step:
        name = type(model).__name__
        raise UserError(f"--workdir={flags.workdir}: {name} does not continue text (no step())")
    chats = config.data.format == CHAT_FORMAT
    folder = user_path(flags.workdir)
    return Service(
        model,
        tokenizer,
        name=flags.name or Path(flags.workdir).resolve().name,
        folder=sessions,
        limits=limits,
        chats=chats,
        template=template_of(folder, chats=chats),
        endings=endings(folder, tokenizer),
        refuse_below=refusal_threshold(model, flags.refuse_below, chats=chats),
        stop_above=flags.stop_above,
    )


if __name__ == "__main__":
    sys.exit(main())
