"""The process of a system: ``python -m benchmarks.systems.host NAME``, lines of JSON both ways.

Rows and parameters travel as files, so that nothing but this needs to be installed beside a peer
(and NumPy).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.problems import load_problem, save_start
from benchmarks.systems import REGISTRY


def main(name: str) -> None:
    """Serve requests until the input ends."""
    # Whatever a system prints goes to the log; the answers have the output to themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    module, kind = REGISTRY[name]
    try:
        system = getattr(importlib.import_module(module), kind)()
    except Exception as error:  # noqa: BLE001  a peer may fail in any way: it is left out
        answer(missing=_line(error))
        return
    answer(versions=system.versions())
    actions = _actions(system)
    for request in map(json.loads, sys.stdin):
        try:
            answer(value=actions[request["do"]](request))
        except Exception as error:  # noqa: BLE001  told to the parent, who says so in the table
            answer(error=_line(error))


def _actions(system: Any) -> dict[str, Callable[[dict[str, Any]], Any]]:
    def load(request: dict[str, Any]) -> str | None:
        problem = load_problem(Path(request["folder"]))
        refusal: str | None = system.refusal(problem)
        if refusal is None:
            system.load(problem)
        return refusal

    def fit(request: dict[str, Any]) -> float:
        started = time.perf_counter()
        system.fit(request["iterations"])
        return time.perf_counter() - started

    def own_start(request: dict[str, Any]) -> bool:
        start = system.own_start(request["n_components"])
        if start is not None:
            save_start(start, Path(request["path"]))
        return start is not None

    return {
        "load": load,
        "fit": fit,
        "own_start": own_start,
        "fitted": lambda request: save_start(system.fitted(), Path(request["path"])),
        "forget_peak": lambda _: _forget_peak(),
        "peak": lambda _: _resident("VmHWM:"),
    }


def _forget_peak() -> int:
    """Let the peak of resident memory begin anew, and give what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident("VmRSS:")


def _resident(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in status if line.startswith(key)).split()[1]) * 1024


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    main(sys.argv[1])
