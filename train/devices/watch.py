"""Connections between the processes of a run, over which each learns what ended another.

Without them, a process that vanishes leaves the others in a collective operation that nobody
answers, until JAX aborts them minutes later.
"""

import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from jaxmodels.errors import UserError

PULSE = 5.0  # seconds between two signs of life
SILENCE = 100.0  # seconds without one after which a process counts as gone, as in JAX
GRACE = 3.0  # seconds in which a process may end by itself what another has ended
GONE = 5  # exit status of a process that ends because another is gone


def send(connection: socket.socket, line: str) -> None:
    """Send a line; a connection that is closed is noticed by who reads from it."""
    try:
        connection.sendall(f"{' '.join(line.split())}\n".encode())
    except OSError:
        pass


class Watch:
    """Context in which a process tells the others how it ends, and ends when one of them is gone.

    Args:
      connections: process -> connection; process 0 has one to each, the others one to process 0.
      index, count: number of this process and of all.
      leave: ends the process at once, with an exit status; tests replace it.
    """

    def __init__(
        self,
        connections: Mapping[int, socket.socket],
        index: int,
        count: int,
        leave: Callable[[int], None] = os._exit,
    ):
        self.connections, self.index, self.count, self.leave = connections, index, count, leave
        self.cause: tuple[str, int] | None = None  # message and exit status
        self._done, self._known = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self):
        for connection in self.connections.values():
            connection.settimeout(PULSE)
            # The kernel notices a host that is gone.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        if error is None or isinstance(error, SystemExit):
            self._tell("bye")
            self._finish()
            return
        # What a collective raises when another process is gone says less than that it is gone.
        if not isinstance(error, UserError | KeyboardInterrupt):
            self._known.wait(GRACE)
        if self.cause is not None:
            self._done.set()
            self._end(*self.cause)
            return
        status, line = 1, f"{kind.__name__}: {error}"
        if isinstance(error, UserError):
            status, line = error.status, str(error)
            _say(f"error: {line}")
        elif isinstance(error, KeyboardInterrupt):
            status, line = 130, "interrupted"
            _say("interrupted; what was saved before is intact")
        else:
            traceback.print_exception(error)
        self._done.set()
        self._tell(f"error {status} {line}")
        self._wait_for_others()
        self._flush()
        # Not by way of JAX's own end, which waits for the others.
        self.leave(status)

    def _look(self) -> None:
        """Exchange signs of life until this process or another one ends."""
        seen = dict.fromkeys(self.connections, time.monotonic())
        rest = dict.fromkeys(self.connections, b"")
        sent = 0.0
        with selectors.DefaultSelector() as selector:
            for process, connection in self.connections.items():
                selector.register(connection, selectors.EVENT_READ, process)
            while not self._done.is_set():
                if time.monotonic() - sent > PULSE:
                    sent = time.monotonic()
                    self._tell(".")
                for key, _ in selector.select(0.2):
                    seen[key.data] = time.monotonic()
                    try:
                        data = key.fileobj.recv(4096)
                    except OSError:
                        data = b""
                    *lines, rest[key.data] = (rest[key.data] + data).split(b"\n")
                    if b"bye" in lines:
                        selector.unregister(key.fileobj)
                        del seen[key.data]
                        continue
                    for line in lines:
                        if line.startswith(b"error "):
                            _, status, text = line.decode(errors="replace").split(" ", 2)
                            self._found(self._named(key.data, text), int(status))
                            return
                    if not data:
                        self._found(self._named(key.data, "ended without a word"), GONE)
                        return
                for process, moment in seen.items():
                    if time.monotonic() - moment > SILENCE:
                        text = f"has not answered for {SILENCE:.0f} s"
                        self._found(self._named(process, text), GONE)
                        return

    def _named(self, process: int, text: str) -> str:
        """Name the process, unless its message does so already."""
        if text.startswith("process "):
            return text
        known = text.startswith(("ended", "has not"))
        return f"process {process} of {self.count}{' ' if known else ': '}{text}"

    def _found(self, message: str, status: int) -> None:
        """End this process unless it ends by itself."""
        self.cause = message, status
        self._known.set()
        self._tell(f"error {status} {message}")  # process 0 passes it on
        if not self._done.wait(GRACE):
            self._end(message, status)

    def _end(self, message: str, status: int) -> None:
        hint = "; start all again with --resume" if status == GONE else ""
        _say(f"error: {message}{hint}")
        self._flush()
        self.leave(status)

    def _tell(self, line: str) -> None:
        for connection in self.connections.values():
            send(connection, line)

    def _wait_for_others(self) -> None:
        """Give the others time to end: JAX aborts them as soon as process 0 is gone."""
        self._thread.join()
        until = time.monotonic() + 2 * GRACE
        for connection in self.connections.values() if self.index == 0 else ():
            try:
                while (left := until - time.monotonic()) > 0:
                    connection.settimeout(left)
                    if not connection.recv(4096):
                        break
            except OSError:
                continue

    def _finish(self) -> None:
        self._done.set()
        self._thread.join()
        for connection in self.connections.values():
            connection.close()

    @staticmethod
    def _flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass


def _say(line: str) -> None:
    # In one piece: print() writes the line break by itself, and another thread may come between.
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
