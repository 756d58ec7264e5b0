"""Optimizers, parameter groups and schedules that torch does not have. They know nobody else in this house."""

from litcnn.optim.groups import Role, parameter_groups
from litcnn.optim.muon import Muon
from litcnn.optim.schedules import PiecewiseLinear, WarmupCosine, make_schedule

__all__ = ["Muon", "PiecewiseLinear", "Role", "WarmupCosine", "make_schedule", "parameter_groups"]
