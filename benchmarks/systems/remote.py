"""A system's process, as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.problems import Problem, Start, load_start
from benchmarks.systems import OWN

_ROOT = Path(__file__).parents[2]


class SystemFailedError(RuntimeError):
    """A system failed; the message is its own.

    Parameters
    ----------
    name : str
        Of the system.
    message : str
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class MissingSystemError(SystemFailedError):
    """A system is not installed, or does not start."""


class Remote:
    """A system in a process of its own.

    Parameters
    ----------
    name : str
        A key of :data:`benchmarks.systems.REGISTRY`.
    python : str
        The interpreter that has it.

    Raises
    ------
    MissingSystemError
        If it cannot be imported there.
    """

    def __init__(self, name: str, python: str = sys.executable) -> None:
        self.name = name
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        with contextlib.ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True)
            self._folder = Path(stack.enter_context(folder))
            self._log = stack.enter_context((self._folder / "log").open("w+", encoding="utf-8"))
            try:
                self._process = subprocess.Popen(  # noqa: S603  our own module
                    [python, "-m", "benchmarks.systems.host", name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._log,
                    text=True,
                    env={**os.environ, "PYTHONPATH": path},
                )
            except OSError as error:
                raise MissingSystemError(name, f"{python} does not start: {error}") from error
            stack.callback(self._end)
            found = self._receive()
            if "missing" in found:
                raise MissingSystemError(name, found["missing"])
            self.versions: dict[str, str] = found["versions"]
            self._stack = stack.pop_all()

    def load(self, problem: Problem) -> str | None:
        """Hand over a problem; the reason if the system cannot solve it."""
        folder = self._folder / "problem"
        problem.save(folder)
        refusal: str | None = self._ask("load", folder=str(folder))
        return refusal

    def own_start(self, n_components: int) -> Start | None:
        """See :class:`benchmarks.systems.base.System`."""
        path = self._folder / "start.npz"
        found = self._ask("own_start", n_components=n_components, path=str(path))
        return load_start(path) if found else None

    def fit(self, iterations: int) -> float:
        """Seconds of a fit."""
        return float(self._ask("fit", iterations=iterations))

    def fitted(self) -> Start:
        """The parameters after the last fit."""
        path = self._folder / "fitted.npz"
        self._ask("fitted", path=str(path))
        return load_start(path)

    def peak_of_fit(self, iterations: int) -> int:
        """Most bytes by which resident memory grew in a fit."""
        before = self._ask("forget_peak")
        self.fit(iterations)
        return max(0, int(self._ask("peak")) - int(before))

    def close(self) -> None:
        """End the process and remove what it was given."""
        self._stack.close()

    def _end(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, action: str, **values: Any) -> Any:
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": action, **values}), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise SystemFailedError(
                f"the process of {self.name} ended: {self._last_words()}"
            ) from error
        found = self._receive()
        if "error" in found:
            raise SystemFailedError(self.name, found["error"])
        return found["value"]

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        return found

    def _ended(self) -> SystemFailedError:
        self._log.seek(0)
        lines = self._log.read().splitlines()
        last = lines[-1] if lines else "nothing on its standard error"
        return SystemFailedError(self.name, f"its process ended: {last}")


@contextlib.contextmanager
def started(
    peers_python: str | None, names: tuple[str, ...]
) -> Iterator[tuple[dict[str, Remote], dict[str, str]]]:
    """Systems that are installed, by name, and why the others are not measured.

    Parameters
    ----------
    peers_python : str, optional
        The interpreter of the peers' environment; None: this one.
    names : tuple of str
    """
    running: dict[str, Remote] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            python = sys.executable if name in OWN or not peers_python else peers_python
            try:
                running[name] = stack.enter_context(Remote(name, python))
            except SystemFailedError as error:
                missing[name] = str(error)
        yield running, missing
