"""Writing of a run's checkpoints, and what is said when the disk refuses one."""

import contextlib
import logging
import math
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from jaxmodels.errors import DiskError, disk_reason
from train.io.checkpoint import FORMAT, items_of, saved_steps
from train.io.manifest import why_no_checkpoint, write_manifest
from train.step import TrainState


class Checkpoints:
    """Writer of a run's checkpoints; open it after `restore`.

    Args:
      workdir: run folder.
      config: run config; the `keep_last` newest, the `keep_best` by validation loss and the
        `keep_steps` are kept.
      fingerprint: hash of the corpus, so that a run is not continued on other text.
      newest: step of the newest existing checkpoint.

    Attributes:
      newest: step of the newest checkpoint, possibly still being written.

    Raises:
      DiskError: from every method, what was to be written could not be.
    """

    def __init__(self, workdir: Path, config: ConfigDict, fingerprint: str, newest: int = 0):
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(config.keep_last), policies.CustomSteps(config.keep_steps)]
        if config.keep_best:
            best = policies.BestN(
                get_metric_fn=lambda metrics: -metrics["loss"],  # ascending: the last is the best
                n=config.keep_best,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        self.newest, self._refused = newest, False
        self.directory = workdir.absolute() / "checkpoints"
        self.info = {"format": FORMAT, "config": config.to_dict(), "data": fingerprint}
        with self._explained(0):
            self._writer = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            )
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        self._ignored, sys.unraisablehook = sys.unraisablehook, self._callback_failed
        logging.getLogger("absl").addFilter(_not_raised)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._pending: Future | None = None

    def save(self, step: int, state: TrainState, iterator, loss: float | None) -> None:
        """Start to write `state` (global form) and the iterator's position asynchronously.

        `loss` is the validation loss at this step, or None. The arrays may be donated as soon as
        this returns.
        """
        self.wait()
        self.newest = step
        loss = loss if loss is not None and math.isfinite(loss) else None
        with self._explained(step):
            response = self._writer.save_checkpointables_async(
                step,
                items_of(state) | {"data": iterator},
                force=True,
                overwrite=True,
                metrics=None if loss is None else {"loss": loss},
                custom_metadata=self.info | {"step": step, "loss": loss},
            )
        self._pending = self._thread.submit(self._finish, response, step)

    def _finish(self, response, step: int) -> None:
        with self._explained(step):
            response.result()
            if jax.process_index() == 0:
                write_manifest(self.directory / str(step))

    def committed(self) -> int:
        """Return the step of the newest checkpoint on the disk, 0 if there is none."""
        steps = saved_steps(self.directory.parent)
        good = [s for s in steps if why_no_checkpoint(self.directory / str(s)) is None]
        return max(good, default=0)

    def check(self) -> None:
        """Raise the error of the checkpoint in progress if there is one already."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Block until all checkpoints are on disk; raise any error of writing them."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait, and stop the threads."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            try:
                self._writer.close()
            except Exception as error:  # the error that `wait` has raised, once more
                if not disk_reason(error):
                    raise
            finally:
                if not self._refused:  # else threads of Orbax still have their errors to tell
                    threading.excepthook, sys.unraisablehook = self._hook, self._ignored
                    logging.getLogger("absl").removeFilter(_not_raised)

    def _thread_failed(self, failure) -> None:
        """Keep Orbax's threads from printing the tracebacks of what `wait` raises."""
        if not disk_reason(failure.exc_value):
            self._hook(failure)

    def _callback_failed(self, unraisable) -> None:
        """Keep tensorstore's threads from printing that Orbax's event loop has ended.

        It ends with the first array that cannot be written; the others answer it all the same.
        """
        if str(unraisable.exc_value) != "Event loop is closed":
            self._ignored(unraisable)

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Turn what the file system answers to the writing of a step into a DiskError."""
        try:
            yield
        except Exception as error:  # tensorstore and Orbax raise several classes
            if not (reason := disk_reason(error)):
                raise
            self._refused = True  # what is left of it goes when the run is resumed
            what = f"saving step {step}" if step else f"opening {self.directory}"
            raise DiskError(f"{reason} while {what}") from error


def _not_raised(record: logging.LogRecord) -> bool:
    """Return False for Orbax's log of an error of the disk, which `Checkpoints.wait` raises."""
    error = record.exc_info[1] if record.exc_info else None
    return not (disk_reason(error) or isinstance(error, TimeoutError))
