"""The engine of a PyTorch Lightning project: exact resume, checkpoints, data, reports, export, command line.

A project derives its two classes from `litengine.module.ClassifierModule` and `litengine.datamodule.ClassificationData`
and hands their import paths to `litengine.cli.main`. The engine imports nothing of the project.
"""

__version__ = "0.1.0"
