"""`main.py study` as a process of its own, with fake_fit.py in place of the program that trains."""

import sys
from pathlib import Path

from litengine import project
from litengine.study import run_verb, workers

project.command = lambda: [sys.executable, str(Path(__file__).with_name("fake_fit.py"))]
workers.visible_gpus = list  # would import torch
workers.INTERVAL = 0.02
run_verb(sys.argv[1:])
