"""`main.py` as a program of its own, for `study` alone, with fake_fit.py in the place of fit."""

import sys
from pathlib import Path

from litengine.study import child, run_verb, workers

child.PROGRAM = [sys.executable, str(Path(__file__).with_name("fake_fit.py"))]
workers.visible_gpus = list  # would import torch
run_verb(sys.argv[1:])
