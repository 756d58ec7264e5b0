"""Where metrics go, one logger a file."""

from litengine.loggers.csv import CSVMetrics
from litengine.loggers.wandb import Wandb

__all__ = ["CSVMetrics", "Wandb"]
