"""Images to try: some of the test split of the checkpoint's own data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLES = 10


def save_examples(source: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes the first test image of each class as PNG; of more than ten classes, of ten spread over all.

    Nothing is downloaded or decoded for that: where the data is not at hand there are none, which is said on the
    terminal.

    Args:
        source: the settings of the source, as a checkpoint's config has them; already found to be trusted.
        folder: where the files are written.

    Returns:
        Their paths, by label.
    """
    import numpy as np
    from jsonargparse import ArgumentParser
    from PIL import Image

    from litengine.data import Source

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Source, "source")
    try:
        made: Source = parser.instantiate(parser.parse_object({"source": dict(source)})).source
        arrays = made.load("test")  # without prepare(), which may download
        if arrays is None:
            raise ValueError("there is no test split")
        labels, first = np.unique(arrays.labels.numpy(), return_index=True)
        chosen = np.linspace(0, len(labels) - 1, min(EXAMPLES, len(labels))).round().astype(int)
        paths = [str(folder / f"{labels[place]}.png") for place in chosen]
        for path, place in zip(paths, chosen, strict=True):
            Image.fromarray(np.moveaxis(arrays.images[int(first[place])].numpy(), 0, 2)).save(path)
    except Exception:  # a dataset of the user's may raise anything; the page is of use without
        print(f"no example images: the test split of {source.get('class_path')} is not at hand")
        return []
    return paths
