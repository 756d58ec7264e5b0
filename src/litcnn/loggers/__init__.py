"""Where metrics go, one logger a file."""

from litcnn.loggers.csv import CSVMetrics
from litcnn.loggers.wandb import Wandb

__all__ = ["CSVMetrics", "Wandb"]
