"""A fit in a network of its own, one of whose two workers is cut off: a program for a namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from distributed import Client

import dgmm
from tests.chaos.clusters import Processes, cut
from tests.chaos.scenarios import Watched, fit


def in_namespace(here: str, *arguments: object) -> tuple[dict[str, Any], float]:
    """Run this module in a namespace: the result of the fit, and its slowest iteration."""
    done = subprocess.run(
        [
            *("ip", "netns", "exec", here, sys.executable, "-m", "tests.chaos.cutoff"),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found, found.pop("slowest")


def main(there: str, address: str, folder: str, data: str, worker_timeout: str) -> None:
    scratch = Path(tempfile.mkdtemp(dir=folder))
    with Processes(scratch) as processes:
        scheduler = processes.start(1, host=address)
        far_away = ("ip", "netns", "exec", there)
        processes.add_worker(scheduler, host="192.0.2.2", prefix=far_away)
        with Client(scheduler, set_as_default=False, timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
            watched = Watched(2, lambda: cut(there))
            engine = dgmm.DaskEngine(client, worker_timeout=float(worker_timeout))
            gm = fit(Path(data), 6, engine, watched)
    found = {"lower_bounds": list(gm.lower_bounds_), "means": gm.means_.tobytes().hex()}
    print(json.dumps(found | {"slowest": watched.slowest}))  # noqa: T201 (read by the parent)


if __name__ == "__main__":
    main(*sys.argv[1:])
