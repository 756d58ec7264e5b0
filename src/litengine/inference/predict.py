"""The verb `predict`: classes of image files, as a table on the screen and in a file."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litengine.files import check_can_write, csv_text, relative, visible, write_whole

if TYPE_CHECKING:
    from rich.table import Table

    from litengine.inference.predictor import Predictor

SHOWN = 20  # rows on the screen


def predict(
    ckpt_path: list[str],
    images: list[str],
    output: str | None = None,
    top_k: int = 2,
    batch_size: int = 32,
    trust: list[str] = [],  # noqa: B006 (only read)
) -> None:
    """Tell the classes of image files and folders.

    Images are prepared as for validation. The row of an image that cannot be read holds the reason.

    Args:
        ckpt_path: The checkpoint of a fit, such as best.ckpt; of several, or the folder of a study, the probabilities
            are averaged.
        images: Image files, folders (all images below them) and globs, in quotes or not.
        output: A file for all rows: .csv, .json or .parquet.
        top_k: How many of the most probable classes a row has; 0 for the probability of every class.
        batch_size: Images at once through the network.
        trust: Packages that the checkpoint may name too.

    Raises:
        ValueError, OSError: for wrong options, images, output or checkpoint, before anything is classified; at the end
            if not one image could be read.
    """
    for name, value, least in (("top_k", top_k, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}: {least} or more is needed")
    if output:
        suffix = Path(output).suffix.lower()
        if suffix not in FORMATS:
            raise ValueError(f"output is {output}: a name that ends with {', '.join(FORMATS)} is needed")
        if suffix == ".parquet" and not find_spec("pyarrow"):
            raise ValueError(f'{output} needs pyarrow: pip install -e ".[parquet]", or choose .csv or .json')
        check_can_write(Path(output))

    from litengine.data.sources.find import find_images  # imports torch: slow
    from litengine.inference.predictor import load_several

    paths = find_images(images)
    predictor = load_several(ckpt_path, trust=trust)
    rows = list(_classify(predictor, paths, min(top_k, len(predictor.class_names)), batch_size))
    if output:
        write_whole(Path(output), FORMATS[suffix](rows))
    _show(rows, output)


def _classify(predictor: "Predictor", paths: list[str], top_k: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """path, prediction, confidence, prediction_2, …, the probability of each class if `top_k` is 0, error; or None."""
    import torch

    from litengine.data.sources.decode import decode_batches
    from litengine.data.sources.progress import progress_bar
    from litengine.inference.predictor import Prediction

    names = predictor.class_names
    with (
        progress_bar("Classifying", len(paths)) as advance,
        closing(decode_batches(paths, predictor.image_size, batch_size, predictor.reading)) as batches,
    ):
        for first, (images, problems) in zip(range(0, len(paths), batch_size), batches, strict=True):
            reasons = dict(enumerate(problems, start=first))
            probabilities = predictor.probabilities(torch.from_numpy(images)).numpy()  # (N, classes)
            for index, numbers in enumerate(probabilities, start=first):
                row: dict[str, Any] = {}
                for rank, (name, confidence) in enumerate(Prediction(numbers, names).top(top_k or 1), start=1):
                    number = f"_{rank}" if rank > 1 else ""
                    row |= {f"prediction{number}": visible(name), f"confidence{number}": round(confidence, 6)}
                if top_k == 0:
                    each = zip(names, numbers.tolist(), strict=True)
                    row |= {f"probability_{visible(name)}": round(value, 6) for name, value in each}
                if error := reasons.get(index):
                    row = dict.fromkeys(row)
                yield {"path": visible(paths[index]), **row, "error": error and visible(error)}
            advance(len(images))


def _show(rows: list[dict[str, Any]], output: str | None) -> None:
    from rich.text import Text  # plain: in a file's name, [bold] is not markup

    from litengine.terminal import print_line

    print_line(_table(rows[:SHOWN]))
    if len(rows) > SHOWN:
        hint = "" if output else " (all in a file: --output predictions.csv)"
        print_line(Text(f"… and {len(rows) - SHOWN:,} more{hint}"))
    if output:
        print_line(Text(f"{len(rows):,} rows: {relative(output)}"))
    if failed := [row for row in rows if row["error"]]:
        first = f"{failed[0]['path']}: {failed[0]['error']}{', …' * (len(failed) > 1)}"
        if len(failed) == len(rows):
            raise ValueError(f"none of the images could be read: {first}")
        print_line(Text(f"{len(failed):,} of {len(rows):,} images could not be read: {first}"))


def _table(rows: list[dict[str, Any]]) -> "Table":
    import rich
    from rich.table import Table
    from rich.text import Text

    ranks = [key.removeprefix("confidence") for key in rows[0] if key.startswith("confidence_")]
    table = Table()
    for name in ("path", "class", "confidence", *("runner-up" if rank == "_2" else f"{rank[1:]}." for rank in ranks)):
        table.add_column(name, overflow="fold", justify="right" if name == "confidence" else "left")
    for row in rows:
        if row["error"]:
            table.add_row(Text(row["path"]), Text(row["error"], style="red"))
            continue
        others = [f"{row[f'prediction{rank}']} {row[f'confidence{rank}']:.2%}" for rank in ranks]
        table.add_row(*map(Text, (row["path"], row["prediction"], f"{row['confidence']:.2%}", *others)))
    console = rich.get_console()
    if not console.is_terminal:  # a file or a pipe has no edge to fold at
        table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    return table


def _csv(rows: list[dict[str, Any]]) -> str:
    return csv_text(list(rows[0]), (row.values() for row in rows))


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    number, text, buffer = pyarrow.float64(), pyarrow.string(), io.BytesIO()
    kinds = {name: number if name.startswith(("confidence", "probability_")) else text for name in rows[0]}
    parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(kinds.items())), buffer)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], str | bytes]] = {".csv": _csv, ".json": _json, ".parquet": _parquet}
