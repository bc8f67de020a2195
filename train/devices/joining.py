"""How several processes that train as one meet.

`jax.distributed.initialize` answers a port in use with a segmentation fault, and a process that
never comes with minutes of silence and an abort. So the processes first meet over a plain
connection, on the coordinator's own port, where every mistake can be said by all of them in one
line. They keep that connection (`train.devices.watch`).
"""

import contextlib
import os
import re
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator

import jax

from jaxmodels.errors import UserError
from train.devices.watch import Watch, send

LIMIT = 300.0  # seconds to wait for the other processes
PATIENCE, REPEAT = 2.0, 60.0  # seconds after which the wait is said first, and again
HELLO = "jaxmodels"

Say = Callable[[str], None]


def tell(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def joined(address: str, count: int, index: int, limit: float = LIMIT) -> Iterator[None]:
    """Train as one of several processes while the block runs; see `meet` and `Watch`.

    Raises:
      UserError: see `meet`; or JAX cannot connect the processes.
    """
    connections = meet(address, count, index, limit)
    with Watch(connections, index, count):
        initialize(
            f"--coordinator={address}: JAX cannot connect the processes", address, count, index
        )
        yield


def initialize(message: str, *arguments) -> None:
    """Call `jax.distributed.initialize`; raise UserError("message (reason)") for what it raises."""
    try:
        jax.distributed.initialize(*arguments)
    except (RuntimeError, ValueError) as error:  # also JaxRuntimeError
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise UserError(f"{message} ({reason})") from error


def meet(
    address: str, count: int, index: int, limit: float = LIMIT, say: Say = tell
) -> dict[int, socket.socket]:
    """Wait until all processes are there; return {process: connection}.

    Process 0 is connected to all others, each of them to process 0.

    Args:
      address: HOST:PORT of process 0, which listens there.
      count, index: number of processes and the number of this one.
      limit: seconds to wait.
      say: called with a line about whom it waits for.

    Raises:
      UserError: in all processes, the port cannot be used, a process did not come in time, or two
        were started with flags that contradict each other.
    """
    host, _, port = address.rpartition(":")
    if not 1 <= int(port) <= 65535:
        raise UserError(f"--coordinator={address}: the port must be 1 .. 65535")
    if index == 0:
        return _Host(address, int(port), count, limit, say).wait()
    return {0: _connect(address, (host.strip("[]"), int(port)), count, index, limit, say)}


class _Host:
    """Process 0 while it waits for the others."""

    def __init__(self, address: str, port: int, count: int, limit: float, say: Say):
        self.address, self.count, self.limit, self.say = address, count, limit, say
        self.until = time.monotonic() + limit
        self.joined: dict[int, socket.socket] = {}
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        try:
            self.server = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        except OSError as error:
            raise UserError(
                f"--coordinator={address}: process 0 cannot listen on port {port} "
                f"({os.strerror(error.errno)}); name another port, in all processes"
            ) from error

    def wait(self) -> dict[int, socket.socket]:
        """Return the connections of all others."""
        say_at = time.monotonic() + PATIENCE
        with self.server, selectors.DefaultSelector() as selector:
            selector.register(self.server, selectors.EVENT_READ)
            try:
                while missing := sorted({*range(1, self.count)} - self.joined.keys()):
                    left, now = self.until - time.monotonic(), time.monotonic()
                    names = f"process {', '.join(map(str, missing))} of {self.count}"
                    if left <= 0:
                        raise UserError(
                            f"--coordinator={self.address}: {names} did not come within "
                            f"{self.limit:.0f} s; start all processes with the same --coordinator "
                            "and --num-processes"
                        )
                    if now >= say_at:
                        say_at = now + REPEAT
                        self.say(f"waiting for {names}, at most {left:.0f} s")
                    for key, _ in selector.select(min(left, 1.0)):
                        self._serve(key, selector)
            except UserError as error:
                for connection in self.joined.values():
                    send(connection, f"error {error}")
                    connection.close()
                raise
        for connection in self.joined.values():
            send(connection, "go")
        return self.joined

    def _serve(self, key, selector) -> None:
        """Take a new process in, or drop one that has gone again."""
        if key.data is not None:
            if not _receive(key.fileobj, 1.0):
                selector.unregister(key.fileobj)
                self.joined.pop(key.data).close()
            return
        connection, _ = self.server.accept()
        words = re.fullmatch(rf"{HELLO} (\d+) (\d+)", _receive(connection, 5.0))
        if words is None:  # something that looks for open ports
            connection.close()
            return
        index, count = map(int, words.groups())
        if count != self.count or index in self.joined or not 0 < index < count:
            problem = f"process {index} was started with --num-processes={count}, process 0 with "
            problem += str(self.count)
            if count == self.count:
                problem = f"two processes were started with --process-id={index}"
            send(connection, f"error {problem}")
            connection.close()
            raise UserError(problem)
        self.joined[index] = connection
        selector.register(connection, selectors.EVENT_READ, index)


def _connect(address, place, count: int, index: int, limit: float, say: Say) -> socket.socket:
    """Return the connection to process 0 once all processes are there."""
    begun, reason = time.monotonic(), "not there yet"
    until, say_at = begun + limit, begun + PATIENCE
    while (left := until - time.monotonic()) > 0:
        if time.monotonic() >= say_at:
            say_at = time.monotonic() + REPEAT
            say(f"waiting for process 0 at {address}, at most {left:.0f} s ({reason})")
        try:
            connection = socket.create_connection(place, timeout=min(5.0, left))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            time.sleep(min(0.3, left))
            continue
        send(connection, f"{HELLO} {index} {count}")
        # Process 0 gives up first, and says why.
        answer = _receive(connection, left + 5.0)
        if answer == "go":
            return connection
        connection.close()
        if answer.startswith("error "):
            raise UserError(answer.removeprefix("error "))
        if answer:
            raise UserError(
                f"--coordinator={address}: something other than process 0 of this run answers "
                "there; name another port, in all processes"
            )
        reason = "it hung up"
        time.sleep(min(0.3, max(left, 0.0)))
    raise UserError(
        f"--coordinator={address}: process 0 did not answer within {limit:.0f} s ({reason}); "
        "start it, or correct the address"
    )


def _receive(connection: socket.socket, seconds: float) -> str:
    """Return a line of at most 2,000 bytes; "" if none comes or the other side hung up."""
    line = b""
    connection.settimeout(seconds)
    try:
        while not line.endswith(b"\n") and len(line) < 2000:
            byte = connection.recv(1)
            if not byte:
                return ""
            line += byte
    except OSError:
        return ""
    return line.decode(errors="replace").strip()
