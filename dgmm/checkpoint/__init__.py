"""Checkpoints: the whole state of a fit, kept so that nothing but time since the last one is lost.

A checkpoint is one sealed file (:mod:`dgmm.sealed`): the chains of the loop, the iteration, the
seed, and what the fit is of, as arrays and JSON with a SHA-256 over all of it. Nothing in it is
code, and no name in it becomes a path. See ``docs/reliability.md``.
"""

from dgmm.checkpoint.keeper import Checkpoints, Found, Keeper
from dgmm.checkpoint.schedule import Interval, Schedule
from dgmm.checkpoint.state import Effort, FitState
from dgmm.checkpoint.stopping import StopRequest

__all__ = [
    "Checkpoints",
    "Effort",
    "FitState",
    "Found",
    "Interval",
    "Keeper",
    "Schedule",
    "StopRequest",
]
