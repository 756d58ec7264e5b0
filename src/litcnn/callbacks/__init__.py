"""What happens beside training, one concern a file."""

from litcnn.callbacks.batch_picture import BatchPicture
from litcnn.callbacks.checkpoints import Checkpoints
from litcnn.callbacks.console import Console, say
from litcnn.callbacks.numerics import CheckNumerics, explain_out_of_memory
from litcnn.callbacks.progress import ProgressBar
from litcnn.callbacks.record import RecordConfig
from litcnn.callbacks.report import WriteReport
from litcnn.callbacks.resume import ExactResume
from litcnn.callbacks.stop import StopOnSignal

__all__ = [
    "BatchPicture",
    "CheckNumerics",
    "Checkpoints",
    "Console",
    "ExactResume",
    "ProgressBar",
    "RecordConfig",
    "StopOnSignal",
    "WriteReport",
    "explain_out_of_memory",
    "say",
]
