"""Meeting of processes, and what each says when another is gone; all in threads of one process."""

import contextlib
import inspect
import socket
import threading
import time

import jax
import pytest

import train.devices.joining
import train.devices.watch
from jaxmodels.errors import DiskError, UserError
from train.__main__ import main
from train.devices.joining import meet
from train.devices.watch import GONE, Watch


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


def outcomes(*calls):
    """Call each in a thread; return what it returned or the message of its UserError."""
    results = [None] * len(calls)

    def keep(i):
        try:
            results[i] = calls[i]()
        except UserError as error:
            results[i] = str(error)

    threads = [threading.Thread(target=keep, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def close(connections):
    for connection in connections.values():
        connection.close()


def test_processes_meet_in_any_order(address):
    def late():
        time.sleep(0.1)
        return meet(address, 3, 0, 10)

    found = outcomes(late, *(lambda i=i: meet(address, 3, i, 10) for i in (1, 2)))
    assert [sorted(connections) for connections in found] == [[1, 2], [0], [0]]
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
        pass  # the port is free for JAX while the connections are open
    for connections in found:
        close(connections)


def test_a_process_that_never_comes(address, monkeypatch):
    """Each of the others says so, within the stated time."""
    said = []
    both = [lambda i=i: meet(address, 4, i, 0.5, said.append) for i in (0, 2)]
    messages = outcomes(*both)
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"--coordinator={address}: process 1, 3 of 4 did not come within")


def test_process_0_never_comes(address):
    with pytest.raises(UserError, match=rf"{address}: process 0 did not answer within 0 s \(Conn"):
        meet(address, 2, 1, 0.4)
    with pytest.raises(UserError, match="process 0 did not answer within 0 s"):
        meet("no-such-host.invalid:9876", 2, 1, 0.1)


def test_the_wait_is_said(address, monkeypatch):
    said = []
    monkeypatch.setattr(train.devices.joining, "PATIENCE", 0.0)
    with contextlib.suppress(UserError):
        meet(address, 3, 0, 0.2, said.append)
    assert said == ["waiting for process 1, 2 of 3, at most 0 s"]
    with contextlib.suppress(UserError):
        meet(address, 3, 1, 0.2, said.append)
    assert said[1].startswith(f"waiting for process 0 at {address}, at most 0 s")


def test_flags_that_contradict_each_other(address):
    counts = outcomes(lambda: meet(address, 2, 0, 10), lambda: meet(address, 3, 1, 10))
    assert len(set(counts)) == 1
    assert counts[0] == "process 1 was started with --num-processes=3, process 0 with 2"
    address = f"127.0.0.1:{free_port()}"
    numbers = outcomes(*(lambda i=i: meet(address, 3, i, 10) for i in (0, 1, 1)))
    assert set(numbers) == {"two processes were started with --process-id=1"}


def test_something_else_listens(address):
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))) as server:
        with pytest.raises(UserError, match=r"cannot listen on port .* in use.; name another port"):
            meet(address, 2, 0, 10)

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.0 400 Bad request\r\n")

        found = outcomes(lambda: meet(address, 2, 1, 10), answer)
        assert "something other than process 0 of this run answers there" in found[0]


def test_who_looks_for_open_ports_is_ignored(address):
    def stranger():
        for _ in range(100):
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", int(address.split(":")[1]))) as one:
                    one.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    with contextlib.suppress(ConnectionResetError):
                        return one.recv(10)
                    return b""
            time.sleep(0.01)

    def late():
        time.sleep(0.3)
        return meet(address, 2, 1, 10)

    found = outcomes(lambda: meet(address, 2, 0, 10), stranger, late)
    assert found[1] == b"" and sorted(found[0]) == [1]
    close(found[0]), close(found[2])


@pytest.fixture
def pair(monkeypatch):
    """The connections of two processes."""
    for name, seconds in (("PULSE", 0.05), ("GRACE", 0.2), ("SILENCE", 0.5)):
        monkeypatch.setattr(train.devices.watch, name, seconds)
    a, b = socket.socketpair()
    with a, b:
        yield a, b


class Other:
    """Process 1, emulated, of which `left` holds the exit status."""

    def __init__(self, connection, count=2):
        self.left = []
        self.watch = Watch({0: connection}, 1, count, self.left.append)

    def wait(self):
        until = time.monotonic() + 5
        while not self.left and time.monotonic() < until:
            time.sleep(0.01)
        return self.left


def test_a_normal_end_is_no_fault(pair, capfd):
    with Watch({1: pair[0]}, 0, 2, pytest.fail):
        other = Other(pair[1])
        with other.watch:
            pass
        time.sleep(0.3)
    assert capfd.readouterr().err == "" and not other.left


def test_a_process_that_vanishes(pair, capfd):
    other = Other(pair[1])
    other.watch.__enter__()
    pair[0].close()
    assert other.wait() == [GONE]
    line = "error: process 0 of 2 ended without a word; start all again with --resume\n"
    assert capfd.readouterr().err == line


def test_a_process_that_hangs(pair, capfd):
    other = Other(pair[1])
    other.watch.__enter__()
    assert other.wait() == [GONE]
    assert "process 0 of 2 has not answered for 0 s" in capfd.readouterr().err


def test_an_error_is_said_by_all(pair, capfd, monkeypatch):
    """Also by the third, to which process 0 passes it on."""
    monkeypatch.setattr(train.devices.watch, "SILENCE", 60.0)
    c, d = socket.socketpair()
    with c, d:
        others, left = [Other(pair[1], 3), Other(d, 3)], []
        others[1].watch.index = 2
        host = Watch({1: pair[0], 2: c}, 0, 3, left.append)
        host.__enter__()
        others[1].watch.__enter__()
        with contextlib.suppress(DiskError), others[0].watch:
            raise DiskError("No space left while saving step 4")
        assert others[0].left == [4] and others[1].wait() == [4]
        until = time.monotonic() + 5
        while not left and time.monotonic() < until:
            time.sleep(0.01)
    assert left == [4]
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "error: No space left while saving step 4"
    assert lines[1:] == ["error: process 1 of 3: No space left while saving step 4"] * 2


def test_what_a_collective_raises_is_not_shown(pair, capfd):
    other = Other(pair[1])
    with contextlib.suppress(RuntimeError), other.watch:
        pair[0].close()
        raise RuntimeError("Gloo AllReduce failed: Connection closed by peer")
    assert other.left[:1] == [GONE]
    assert capfd.readouterr().err.startswith("error: process 0 of 2 ended without a word")


def test_an_own_fault_keeps_its_traceback(pair, capfd):
    other = Other(pair[1])
    with contextlib.suppress(ZeroDivisionError), other.watch:
        _ = 1 / 0
    assert other.left == [1] and "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--distributed"], "--distributed: found no TPU pod, Slurm or Open MPI around this"),
        ([f"--coordinator=127.0.0.1:{'9' * 5000}"], "write HOST:PORT"),
        (["--coordinator=127.0.0.1:99999"], "the port must be 1 .. 65535"),
        (["--coordinator=127.0.0.1:9", "--join-timeout=0"], "--join-timeout=0: give more than 0"),
    ],
)
def test_flags_of_several_processes(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(train.devices.joining.jax.distributed, "initialize", undetected)
    if flags[0] != "--distributed":
        flags = [*flags, "--num-processes=2", "--process-id=1"]
    assert main(["--config=x.py", f"--workdir={tmp_path}/run", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def undetected():
    raise ValueError("coordinator_address should be defined.")


def test_jax_still_answers_the_end_of_process_0_by_itself():
    """Once JAX takes a callback, its lines on standard error need not precede ours."""
    options = inspect.signature(jax.distributed.initialize).parameters
    assert not [name for name in options if "callback" in name]
