"""A bar for the study and one for every run that is at work, where there is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from litengine.study.child import Child
from litengine.study.results import read_epochs


class Progress:
    """Bars, and lines above them.

    Args:
        name: of the study.
        total: how many runs it has.
        epochs: how many epochs a run has, where that is known.
        metric: that is shown of every run.
    """

    def __init__(self, name: str, total: int, epochs: int | None, metric: str) -> None:
        import rich
        from rich import progress

        self.console = rich.get_console()
        self.epochs = epochs
        self.metric = metric
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[says]}"),
            progress.TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._total = self._bars.add_task(name, total=total, says="runs")
        self._runs: dict[str, Any] = {}

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        with self._bars:
            yield self

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def watch(self, child: Child) -> None:
        """Shows how far a run is; says once where it waits for another process."""
        if child.name not in self._runs:
            if child.waits_for_another:
                self.say(f"{child.name} is still being trained by a process of a study that was killed: waiting for it")
            self._runs[child.name] = self._bars.add_task(f"  {child.name}", total=self.epochs, says="")
        if not self._bars.disable and (run_dir := child.run_dir):
            epochs = read_epochs(run_dir)
            says = f"epochs  {self.metric} {epochs[-1].get(self.metric, float('nan')):.4f}" if epochs else "epochs"
            self._bars.update(self._runs[child.name], completed=len(epochs), says=says)

    def ended(self, child: Child, done: int) -> None:
        """Takes the bar of a run away; `done` runs are over."""
        self._bars.remove_task(self._runs.pop(child.name))
        self._bars.update(self._total, completed=done)
