"""Progress display: a live bar on a terminal, plain lines elsewhere; process 0 only."""

import sys
import time

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxmodels.output import Output

PLAIN_EVERY = 10.0  # seconds between two plain lines


class ProgressLine:
    """Display of step, loss, bits per byte, bytes per second and the time left.

    Args:
      steps: total steps of the run.
      start: first step.
      quiet: print nothing.
    """

    def __init__(self, steps: int, start: int, quiet: bool = False):
        # rich ends the process when the reader of a pipe has gone.
        self.console = Console(file=Output(sys.stdout), highlight=False, soft_wrap=True)
        self.quiet = quiet or jax.process_index() != 0
        self.steps, self.start = steps, start
        self.begun = self.last = time.monotonic()
        self.bar = None
        if self.console.is_terminal and not self.quiet:
            self.bar = Progress(
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=4,
            )
            self.task = self.bar.add_task("train", total=steps, completed=start, text="compiling")
            self.bar.start()

    def update(self, step: int, values: dict[str, float], bytes_per_second: float) -> None:
        """Show the metrics of a logged step."""
        text = describe(values) + f"  {bytes_per_second / 1000:.1f} kB/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, text=text)
            return
        now = time.monotonic()
        first = self.last == self.begun
        if self.quiet or (now - self.last < PLAIN_EVERY and not first and step < self.steps):
            return
        left = (now - self.begun) / max(step - self.start, 1) * (self.steps - step)
        self.last = now
        self.say(f"step {step}/{self.steps}  {text}  {left:.0f} s left")

    def restart(self, step: int) -> None:
        """Restart the estimate of the time left, to exclude compilation."""
        self.begun = self.last = time.monotonic()
        self.start = step

    def say(self, text: str) -> None:
        """Print a permanent line."""
        if not self.quiet:
            self.console.print(text, markup=False)

    def close(self) -> None:
        """End the live line."""
        if self.bar is not None:
            self.bar.stop()


def describe(values: dict[str, float]) -> str:
    """Format loss and, if present, bits per byte."""
    parts = [f"loss {values['loss']:.4f}"] if "loss" in values else []
    if "bits_per_byte" in values:
        parts.append(f"{values['bits_per_byte']:.3f} bits/byte")
    return "  ".join(parts)
