"""Clusters to be mistreated, and what mistreats them. Everything that is started here is ended."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from distributed import Client, LocalCluster

from dgmm.engine.dask_local import start_cluster

WAIT_SECONDS = 120.0


@contextmanager
def local(n_workers: int = 2, **options: Any) -> Iterator[Client]:
    """A client of a LocalCluster, as the engine starts it."""
    with (
        start_cluster(n_workers, silence_logs=50, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        try:
            yield client
        finally:
            # What was stopped cannot end by itself.
            for pid in worker_pids(cluster):
                send(pid, signal.SIGCONT)


def worker_pids(cluster: LocalCluster) -> list[int]:
    """Processes of the workers, those that are starting included."""
    nannies = list(cluster._created)
    return sorted(pid for nanny in nannies if nanny.is_alive() and (pid := nanny.pid))


def settle(client: Client, n_workers: int) -> None:
    """Wait until the cluster has so many workers, and the scheduler knows those that live.

    A worker that was killed stays in the scheduler's list until its connection breaks, and its
    nanny then brings another: a test that begins in between would see a loss that is not its own.
    """

    def alive() -> bool:
        nannies = list(client.cluster.workers.values())
        if len(nannies) < n_workers:
            # A nanny that was slow to bring another worker has been given up: begin a new one.
            client.cluster.scale(n_workers)
        processes = {nanny.worker_address: nanny.pid for nanny in nannies if nanny.is_alive()}
        known = set(client.run_on_scheduler(_addresses))
        # Of a worker that died just now there is no answer.
        answers = client.run(os.getpid, on_error="ignore")
        return len(nannies) == n_workers and known == set(processes) and answers == processes

    eventually(alive, f"{n_workers} workers that answer")


def _addresses(dask_scheduler: Any) -> list[str]:
    return list(dask_scheduler.workers)


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def eventually(holds: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """What ``holds`` returns as soon as that is true."""
    pause, deadline = threading.Event(), monotonic() + seconds
    while not (found := holds()):
        assert monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        pause.wait(0.05)
    return found


@dataclass
class Processes:
    """A scheduler and workers without nannies, each a process in a group of its own.

    Parameters
    ----------
    folder : Path
        For scratch files and what the processes say.
    prefix : sequence of str
        In front of each command line: ``ip netns exec ...``.
    """

    folder: Path
    prefix: tuple[str, ...] = ()
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(WAIT_SECONDS)

    def start(self, n_workers: int, host: str = "127.0.0.1") -> str:
        """Start them; the address of the scheduler."""
        file = self.folder / f"scheduler-{os.urandom(4).hex()}.json"
        self.scheduler = self._run(
            "scheduler", "--host", host, "--port", "0", "--no-dashboard", "--scheduler-file", file
        )
        address = eventually(lambda: _address(file), "a scheduler")
        for _ in range(n_workers):
            self.add_worker(address, host=host)
        return str(address)

    def add_worker(self, address: str, *, host: str = "127.0.0.1", prefix: Any = None) -> None:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60")
        place = ("--host", host, "--local-directory", self.folder)
        self.workers.append(self._run("worker", address, *options, *place, prefix=prefix))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal to the scheduler."""
        assert self.scheduler is not None
        send(self.scheduler.pid, number)

    def _run(self, *arguments: object, prefix: Any = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(self.prefix if prefix is None else prefix),
                    *(sys.executable, "-m", "dask"),
                    *map(str, arguments),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _address(file: Path) -> str | None:
    with suppress(OSError, ValueError):
        return str(json.loads(file.read_text())["address"])
    return None


class Trouble:
    """Does something to a cluster at random moments, from a seed, until it is left.

    Parameters
    ----------
    act : callable
        Takes a random generator.
    mean : float
        Seconds between two acts, on average.
    seed : int

    Attributes
    ----------
    times : int
    """

    def __init__(self, act: Callable[[random.Random], bool], mean: float, seed: int) -> None:
        self.times = 0
        self._act, self._mean = act, mean
        self._random = random.Random(seed)  # noqa: S311
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Trouble:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(WAIT_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(self._random.expovariate(1 / self._mean)):
            self.times += self._act(self._random)


def signals_to_workers(
    cluster: LocalCluster, *numbers: signal.Signals
) -> Callable[[random.Random], bool]:
    """An act of :class:`Trouble`: one of the signals to one of the workers."""

    def act(chosen: random.Random) -> bool:
        pids = worker_pids(cluster)
        if pids:
            send(chosen.choice(pids), chosen.choice(numbers))
        return bool(pids)

    return act


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own; RuntimeError where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    _command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        yield place
    finally:
        _command("umount", "-l", str(place))


@contextmanager
def lockable(place: Path) -> Iterator[tuple[Path, Callable[[bool], None]]]:
    """A directory, and what makes it and all in it read-only or not.

    By modes, which root ignores: for root it is a tmpfs that is mounted anew, and a RuntimeError
    where that is not allowed.
    """
    if not os.geteuid():
        with small_disk(place, "size=8m") as disk:

            def remount(locked: bool) -> None:
                state = "ro" if locked else "rw"
                _command("mount", "-o", f"remount,{state}", str(disk))

            yield disk, remount
        return
    place.mkdir(parents=True)

    def change(locked: bool) -> None:
        for folder in (place, *(one for one in place.rglob("*") if one.is_dir())):
            folder.chmod(0o500 if locked else 0o700)

    try:
        yield place, change
    finally:
        change(False)


@contextmanager
def two_networks() -> Iterator[tuple[str, str, str]]:
    """Two network namespaces with a cable between them, and nothing else.

    Gives the names of both, and the address of the first: RuntimeError where that is not allowed.
    """
    here, there = (f"dgmm-{os.getpid()}-{side}" for side in "ab")
    with ExitStack() as stack:
        for name in (here, there):
            _command("ip", "netns", "add", name)
            stack.callback(_command, "ip", "netns", "del", name)
        cable = ("type", "veth", "peer", "name", "cable", "netns", there)
        _command("ip", "-n", here, "link", "add", "cable", *cable)
        for name, address in ((here, "192.0.2.1/30"), (there, "192.0.2.2/30")):
            _command("ip", "-n", name, "addr", "add", address, "dev", "cable")
            _command("ip", "-n", name, "link", "set", "cable", "up")
            _command("ip", "-n", name, "link", "set", "lo", "up")
        yield here, there, "192.0.2.1"


def cut(namespace: str) -> None:
    """Pull the cable out on one side."""
    _command("ip", "-n", namespace, "link", "set", "cable", "down")


def _command(*line: str) -> None:
    try:
        done = subprocess.run(line, capture_output=True, check=False, timeout=30, text=True)
    except OSError as error:
        raise RuntimeError(str(error)) from error
    if done.returncode:
        raise RuntimeError(f"{line[0]}: {done.stderr.strip()}")
