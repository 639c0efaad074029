"""Warnings that name the caller's line, however deep in dgmm they come up."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_user"]


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn of something, at the line outside dgmm that led to it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    # What stands between two frames of ours is a context manager of ours.
    return module in ("dgmm", "contextlib") or module.startswith("dgmm.")
