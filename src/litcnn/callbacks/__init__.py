"""What happens beside training, one concern a file."""

from litcnn.callbacks.checkpoints import Checkpoints
from litcnn.callbacks.console import Console, say
from litcnn.callbacks.numerics import CheckNumerics, explain_out_of_memory
from litcnn.callbacks.progress import ProgressBar
from litcnn.callbacks.record import RecordConfig
from litcnn.callbacks.results import WriteResults
from litcnn.callbacks.resume import ExactResume
from litcnn.callbacks.stop import StopOnSignal

__all__ = [
    "CheckNumerics",
    "Checkpoints",
    "Console",
    "ExactResume",
    "ProgressBar",
    "RecordConfig",
    "StopOnSignal",
    "WriteResults",
    "explain_out_of_memory",
    "say",
]
