"""The operations that one training step dispatches: the program against the bare loop.

    python benchmarks/launches.py                              # prints a table
    python benchmarks/launches.py --write docs/benchmarks.md

On a GPU the host launches operations one by one, so that small networks wait for the host: the number of operations is
the time of a step. They are counted on a CPU (bf16-mixed), in a step that logs nothing. A foreach or fused operation
counts once; views, allocations and the profiler's marks launch nothing and do not count. The pixels are noise in the
shape of CIFAR-10.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

from loop import TINY, Bare, Program, Watch, as_a_user_sees_it, run
from machine import ROOT, arguments, describe, publish
from torch.utils._python_dispatch import TorchDispatchMode

REACH = {"fast": 160, "cnn": 130}  # of the bare loop
MORE = 12  # of the program, over the bare loop
COUNTED = 3  # the step that is counted: in the first two, optimizers make their state
NOTHING = ("empty", "new_empty", "_record_function")  # names of what launches nothing begin like this
KINDS = 12  # that have a row of their own


class Operations(TorchDispatchMode):
    """Counts what is dispatched, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(NOTHING):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class Counting(Watch):
    """Keeps what was dispatched between the ends of two batches."""

    def __init__(self, operations: Operations) -> None:
        super().__init__(warm_up=1)
        self.operations = operations
        self.step: Counter[str] = Counter()

    def lap(self, is_last: bool) -> None:
        super().lap(is_last)
        if self.steps == COUNTED:
            self.step = self.operations.counts.copy()
        self.operations.counts.clear()


def count(kind: type[Program], config: str, quick: bool) -> Counter[str]:
    """Operations of one step, by name."""
    args = ["fit", "--config", str(ROOT / f"configs/{config}.yaml"), "--data.source", "loop.RandomPixels"]
    args += ["--trainer.max_epochs=1", f"--trainer.limit_train_batches={COUNTED + 1}", "--trainer.limit_val_batches=0"]
    args += ["--trainer.accelerator=cpu", "--trainer.precision=bf16-mixed", *(TINY if quick else [])]
    args += ["--data.batch_size=32"]  # another size is as many operations
    with Operations() as operations:
        watch = Counting(operations)
        run(kind, args, watch=watch)
    return watch.step


def main(args: Sequence[str] | None = None) -> None:
    given = arguments(__doc__).parse_args(args)
    as_a_user_sees_it()
    with tempfile.TemporaryDirectory(prefix="litcnn-launches-") as folder:
        os.chdir(folder)
        found = {
            config: {"program": count(Program, config, given.quick), "bare": count(Bare, config, given.quick)}
            for config in REACH
        }
    sides = [(config, side) for config in REACH for side in ("program", "bare")]
    totals = sum((found[config][side] for config, side in sides), Counter())
    rows = [
        ["all", *(f"**{found[config][side].total()}**" for config, side in sides)],
        ["reach", *(f"≤ {REACH[c]}" if side == "bare" else f"≤ bare + {MORE}" for c, side in sides)],
        *([f"`{kind}`", *(str(found[c][s][kind]) for c, s in sides)] for kind, _ in totals.most_common(KINDS)),
    ]
    rest = [kind for kind in totals if kind not in dict(totals.most_common(KINDS))]
    rows.append(["all others", *(str(sum(found[c][s][kind] for kind in rest)) for c, s in sides)])
    columns = ["operation", *(f"`{config}.yaml`, {side}" for config, side in sides)]
    publish("launches.py", f"One step, counted on a CPU. {describe(note=given.note)}.", columns, rows, given.write)


if __name__ == "__main__":
    main()
