"""`python -m litcnn` and the command `litcnn`: the same as main.py."""

from litengine import cli


def main(args: list[str] | None = None) -> None:
    """Runs the words of a command line, by default those of this process."""
    cli.main("litcnn.model.ImageClassifier", "litcnn.data.ImageData", args)


if __name__ == "__main__":
    main()
