"""Another holder of a folder, for tests: a thread, which excludes others as a process does."""

import contextlib
import threading

from train.io.lock import one_writer


@contextlib.contextmanager
def held_elsewhere(folder, command="python -m train", role="run"):
    taken, done = threading.Event(), threading.Event()

    def hold():
        with one_writer(folder, command, role=role):
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10)
    try:
        yield
    finally:
        done.set()
        thread.join()
