"""Progress display of the probes."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from eval.probes.plan import Plan
from eval.probes.table import mean_and_spread


class ProgressLine:
    """A progress bar on a terminal, and one line per finished row."""

    def __init__(self, console: Console, plans: list[Plan]):
        self.console, self.begun = console, time.monotonic()
        self.total = sum(plan.recipe.steps for plan in plans)
        self.done = 0
        self.bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:.0f} %  {task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=600,
        )
        self.task = self.bar.add_task("probes", total=self.total, text="compiling")

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *exc):
        self.bar.stop()

    def start(self, plan: Plan):
        """Return the callback for `train_probe(on_steps=...)`."""
        name = f"{plan.task} {plan.cell}"
        self.bar.update(self.task, text=f"{name}: compiling")

        def on_steps(steps: int, accuracy: float) -> None:
            text = f"{name}: step {steps}/{plan.recipe.steps}, accuracy {accuracy:.1%}"
            self.bar.update(self.task, completed=self.done + steps, text=text)

        return on_steps

    def finish(self, plan: Plan, row: dict) -> None:
        """Print a line about a finished row."""
        self.done += plan.recipe.steps
        self.bar.update(self.task, completed=self.done)
        minutes = (time.monotonic() - self.begun) / self.done * (self.total - self.done) / 60
        self.console.print(
            f"{row['task']} {row['cell']}: {mean_and_spread(row['accuracy'])} after "
            f"{row['steps']} steps, {row['seconds']:.0f} s; {minutes:.0f} min left",
            markup=False,
        )
