"""Load on a served model of a million parameters: nothing mixed up or lost, rates, memory.

    python -m tests.eval.serve.load [--requests 10000] [--streams 64] [--sessions 1000]
                                    [--tokens 256] [--out docs/results/serve/load.json]

The server is a process of its own on a free port of the loopback interface. Every request is one of
50 kinds, whose answers were taken one at a time before; an answer that differs is counted as wrong.
Rates are of drawn tokens, and of those with the tokens of prompts, which are read by the same step
or in pieces; that of the plain batch step is `model.step` and an argmax for 64 rows in one compiled
loop, without a server, before the load and after it.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = 50
MODEL = {"vocab_size": 256, "width": 128, "num_layers": 4}  # of rwkv; about a million parameters


def model_of():
    """The model, untrained."""
    import jaxmodels

    return jaxmodels.create("rwkv", seed=0, **MODEL)


def serve(slots: int, folder: str) -> None:
    """Serve the model until a signal."""
    from eval.serve.http import serve as run
    from eval.serve.limits import Limits
    from eval.serve.service import Service
    from jaxmodels.data import ByteTokenizer

    limits = Limits(slots=slots, queue=256, max_sessions=10**5, session_bytes=1 << 34)
    options = dict(name="load", folder=Path(folder), limits=limits)
    asyncio.run(run(Service(model_of(), ByteTokenizer(), **options), "127.0.0.1", 0))


def plain(rows: int, seconds: float = 5.0) -> float:
    """Tokens a second of the batch step in one compiled loop of 32 tokens."""
    import jax
    import jax.numpy as jnp

    leaves, tree = jax.tree.flatten(model_of())

    @jax.jit
    def loop(leaves, state, token):
        model = jax.tree.unflatten(tree, leaves)

        def body(carry, _):
            state, out = model.step(*carry)
            return (state, jnp.argmax(out.logits, -1).astype(jnp.int32)), None

        return jax.lax.scan(body, (state, token), None, 32)[0]

    carry = model_of().initial_state(rows), jnp.zeros(rows, jnp.int32)
    carry = jax.block_until_ready(loop(leaves, *carry))
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        carry = jax.block_until_ready(loop(leaves, *carry))
        calls += 1
    return 32 * rows * calls / (time.perf_counter() - start)


class Client:
    """One connection that sends one request after the other."""

    def __init__(self, port: int):
        self.port, self._reader, self._writer = port, None, None

    async def ask(self, path: str, body: dict) -> tuple[bytes, float]:
        """Return the body of an answer, and the seconds to its first text."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        start, first = time.perf_counter(), None
        self._writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        headers = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        if " 200 " not in headers.split("\r\n")[0]:
            raise RuntimeError(headers.split("\r\n")[0])
        if "content-length" in headers:
            size = int(headers.split("content-length:")[1].split("\r\n")[0])
            return await self._reader.readexactly(size), time.perf_counter() - start
        pieces = []
        while size := int(await self._reader.readline(), 16):
            pieces.append(await self._reader.readexactly(size))
            first = first or time.perf_counter() - start
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(pieces), first

    async def text(self, ask: dict) -> tuple[str, dict, float]:
        """Return (text, usage, seconds to the first text) of a streamed completion."""
        fields = {"stream": True, "stream_options": {"include_usage": True}}
        data, first = await self.ask("/v1/completions", ask | fields)
        lines = [x.removeprefix(b"data: ") for x in data.split(b"\n\n") if x]
        if lines.pop() != b"[DONE]":
            raise RuntimeError("an answer without its end")
        objects = [json.loads(line) for line in lines]
        usage = objects.pop()["usage"]
        text = "".join(x["choices"][0]["text"] for x in objects)
        return text, usage, first

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()


def kind_of(number: int, tokens: int) -> dict:
    """The request of a kind: prompts of different lengths, options and seeds."""
    i = number % KINDS
    prompt = f"{i}: " + "In the beginning " * (9 if i % 10 == 9 else i % 3)
    options = dict(temperature=(0.0, 0.7, 1.0, 1.3)[i % 4], seed=i, max_tokens=tokens - i % 9)
    if i % 5 == 0:
        options |= dict(top_p=0.9, top_k=40)
    return {"model": "load", "prompt": prompt, **options}


async def many(port, streams, requests, tokens, expected, rss) -> dict:
    """Run requests in so many streams at once."""
    numbers, wrong, lost, drawn, read = iter(range(requests)), 0, 0, 0, 0
    firsts, memory = [], []

    async def stream():
        nonlocal wrong, lost, drawn, read
        client = Client(port)
        for number in numbers:
            try:
                ask = kind_of(number, tokens)
                text, usage, first = await asyncio.wait_for(client.text(ask), 300)
            except (RuntimeError, OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
                lost += 1
                client.close()
                client = Client(port)
                continue
            wrong += text != expected[number % KINDS]
            drawn += usage["completion_tokens"]
            read += usage["prompt_tokens"]
            firsts.append(first)
            if number % max(1, requests // 20) == 0:
                memory.append(rss())
                print(f"{streams} streams: {len(firsts):,} of {requests:,}", file=sys.stderr)
        client.close()

    start = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(streams)))
    seconds = time.perf_counter() - start
    cuts = statistics.quantiles(firsts, n=100) if len(firsts) > 1 else [0.0] * 99
    return {
        "streams": streams,
        "requests": requests,
        "wrong": wrong,
        "lost": lost,
        "tokens_per_second": round(drawn / seconds, 1),
        "with_prompts_per_second": round((drawn + read) / seconds, 1),
        "first_token_p50": round(cuts[49], 4),
        "first_token_p95": round(cuts[94], 4),
        "memory_bytes": memory,
    }


async def sessions(port, count, rss) -> dict:
    """Save sessions, then continue each, which must give what it gives at once."""
    client, wrong, before = Client(port), 0, rss()
    ask = {"model": "load", "max_tokens": 8}
    for i in range(count):
        body = ask | {"prompt": f"session {i}", "seed": i, "session_out": f"s{i}"}
        await client.ask("/v1/completions", body)
    for i in range(0, count, max(1, count // 100)):
        whole = await client.text(ask | {"prompt": f"session {i}", "seed": i, "max_tokens": 16})
        start = await client.text(ask | {"prompt": f"session {i}", "seed": i})
        rest = await client.text(ask | {"prompt": "", "seed": i, "session_in": f"s{i}"})
        # A character may be cut in two where the session was saved.
        wrong += "\ufffd" not in start[0] + rest[0] and start[0] + rest[0] != whole[0]
    client.close()
    return {"sessions": count, "wrong": wrong, "memory_bytes": [before, rss()]}


async def measured(port, flags, rss) -> dict:
    """Everything that is asked of the server."""
    client = Client(port)
    expected = [(await client.text(kind_of(i, flags.tokens)))[0] for i in range(KINDS)]
    client.close()
    results = [
        await many(port, streams, n, flags.tokens, expected, rss)
        for streams, n in ((1, 30), (8, 200), (flags.streams, flags.requests))
    ]
    return {"load": results, "saved": await sessions(port, flags.sessions, rss)}


def main() -> None:
    """Run it and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("requests", 10_000), ("streams", 64), ("sessions", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--out")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        return serve(flags.streams, flags.serve)
    if flags.plain:
        return print(plain(flags.plain))
    this, start = [sys.executable, "-m", "tests.eval.serve.load"], time.perf_counter()

    def rates() -> dict[str, float]:
        counts = (1, 8, flags.streams)
        lines = {n: subprocess.check_output([*this, f"--plain={n}"]) for n in counts}
        return {str(n): round(float(x.split()[-1]), 1) for n, x in lines.items()}

    plain_rates = [rates()]
    with tempfile.TemporaryDirectory() as folder:
        command = [*this, f"--serve={folder}", f"--streams={flags.streams}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            port = int(server.stdout.readline().split(" at ")[1].split()[0].rsplit(":", 1)[1])
            status = Path(f"/proc/{server.pid}/status")

            def rss():
                lines = status.read_text().splitlines()
                return 1024 * int(next(x for x in lines if x.startswith("VmRSS")).split()[1])

            try:
                results = asyncio.run(measured(port, flags, rss))
            finally:
                server.terminate()
    plain_rates.append(rates())
    from eval.log import device_description, versions
    from jaxmodels import count_parameters

    results |= {
        "command": " ".join(["python -m tests.eval.serve.load", *sys.argv[1:]]),
        "model": {"name": "rwkv", **MODEL, "parameters": count_parameters(model_of())},
        "seed": "of a request: its number modulo 50",
        "plain_tokens_per_second": dict(zip(("before", "after"), plain_rates, strict=True)),
        "versions": versions(),
        "device": device_description(),
        "wall_seconds": round(time.perf_counter() - start, 1),
    }
    whole = statistics.mean(rates[str(flags.streams)] for rates in plain_rates)
    last = results["load"][-1]
    for name in ("tokens_per_second", "with_prompts_per_second"):
        results[f"share_of_plain: {name}"] = round(last[name] / whole, 3)
    text = json.dumps(results, indent=2)
    print(text)
    if flags.out:
        Path(flags.out).parent.mkdir(parents=True, exist_ok=True)
        Path(flags.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
