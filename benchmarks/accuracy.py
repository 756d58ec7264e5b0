"""Test accuracy and training time of a config over several seeds, and what the article's recipe would take here.

    python benchmarks/accuracy.py --images data/images --pixels "JPEG files, 30 dB from the originals"
    python benchmarks/accuracy.py --seeds 10 --bare -- --model.compile true    # what comes after -- goes to the fit

Trains on all training images (`val_fraction` 0), seed after seed, in one process, each by the program's own
`fit --test_after_fit true`: the test images are read once, at the end of each. The runs stay in `runs/`, as those of
any fit; their metrics.csv tells how far they are. Seconds are those of the training, with the checkpoints in between; a
cold one, the first, is counted from the start of this script, with imports, data and all; the warm ones, without, are
those after it.

After each fit comes a bare loop over a part of an epoch of cnn.yaml, on the same pixels: the mean of its steps makes
the seconds of the article's 50 epochs.
"""
# ruff: noqa: E402  # the clock starts before the imports

import time

STARTED = time.perf_counter()

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from loop import TINY, Bare, Program, Timing, as_a_user_sees_it, device, run
from machine import ROOT, absolute, arguments, describe, middle, publish, ratio

from litengine.study.repeat import summarize

ARTICLE = ROOT / "configs/cnn.yaml"
ARTICLE_STEPS = 50 * 352  # epochs of 45,000 images in batches of 128
PART = 60  # of them, that are measured on a CPU


def accuracy(values: Sequence[float]) -> str:
    """Fractions in percent: the mean, the standard deviation of one run, and the 95 % interval of the mean."""
    found = summarize(values)
    spread = " ± {std:.2%} ({n} seeds; 95 % interval {low:.2%} to {high:.2%})" if len(values) > 1 else " (one seed)"
    return f"**{found['mean']:.2%}**" + spread.format(n=len(values), **found)


def table(fits: Sequence[Timing], articles: Sequence[Timing], bares: Sequence[Timing]) -> list[tuple[str, str, str]]:
    warm = [timing.training for timing in fits[1:] or fits]
    steps = [1e3 * timing.step for timing in articles]
    article = ARTICLE_STEPS * median(steps) / 1e3
    rows = [
        ("test accuracy", accuracy([timing.accuracy for timing in fits]), ""),
        ("training, warm", middle(warm, "{:,.1f}", "s"), ""),
        ("training, cold: from the start of the process", f"{fits[0].ended - STARTED:,.1f} s", ""),
        ("a step of the article's recipe, bare", middle(steps, "{:,.1f}", "ms"), ""),
        (f"its 50 epochs, computed: {ARTICLE_STEPS:,} steps", f"{article:,.0f} s", ""),
        ("training, of the article's 50 epochs", f"**1/{article / median(warm):.1f}**", "1/8"),
    ]
    if bares:
        seconds = [timing.training for timing in bares]
        rows.append(("the same recipe in a bare loop, warm", middle(seconds[1:] or seconds, "{:,.1f}", "s"), ""))
        rows.append(("training, of the bare loop", ratio(warm, seconds[1:] or seconds), "1.15"))
    return rows


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--config", type=absolute, default=ROOT / "configs/fast.yaml")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, 2, …")
    parser.add_argument("--images", type=absolute, metavar="FOLDER", help="in place of the source of the config")
    parser.add_argument("--pixels", default="original", help="what to call them in the table")
    parser.add_argument("--bare", action="store_true", help="train the same recipe in a bare loop too, to its end")
    parser.add_argument("more", nargs="*", metavar="-- OPTIONS", help="of the fit")
    given = parser.parse_args(args)
    as_a_user_sees_it()

    source = (
        ["--data.source", "litengine.data.ImageFolder", f"--data.source.root={given.images}"] if given.images else []
    )
    source += TINY if given.quick else []
    recipe = ["fit", f"--config={given.config}", *source, "--data.val_fraction=0", *given.more]
    part = 2 if given.quick else PART if device() == "cpu" else None
    limits = ["--trainer.limit_val_batches=0", *([f"--trainer.limit_train_batches={1 + part}"] if part else [])]
    article = ["fit", f"--config={ARTICLE}", *source, "--trainer.max_epochs=1", *limits]

    fits, articles, bares = [], [], []
    for seed in range(1 if given.quick else given.seeds):
        own = [f"--seed_everything={seed}", f"--name={given.config.stem}-seed{seed}"]
        fits.append(run(Program, [*recipe, *own, "--test_after_fit=true"]))
        articles.append(run(Bare, article))
        if given.bare:
            bares.append(run(Bare, [*recipe, *own]))
        print(f"seed {seed}: {fits[-1].accuracy:.2%}, {fits[-1].training:,.1f} s", file=sys.stderr)

    facts = (
        f"`{given.config.name}` {' '.join(given.more)}, {given.pixels} pixels, all training images. "
        f"{describe(device(), given.note)}, {torch.get_num_threads()} threads."
    )
    name = f"accuracy.py {Path(given.config).stem} on a {'GPU' if device() == 'cuda' else 'CPU'}"
    publish(name, facts, ("what", "measured", "reach"), table(fits, articles, bares), given.write)


if __name__ == "__main__":
    main()
