"""Fits on the command line that are killed or told to stop, and go on when they are run again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgmm.cli import main
from tests.checkpoint.fits import Hit, rows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Kills itself when it reports an iteration.
PROGRAM = """
import os, signal, sys
import dgmm.cli.fitting
from dgmm.cli import main
from tests.checkpoint.fits import Hit

hit = Hit(int(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL))
dgmm.cli.fitting.follow = lambda *args, **options: hit

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
"""
# What a terminal does for Ctrl-C: every process of the group gets it.
INTERRUPTED = PROGRAM.replace("os.kill(os.getpid(), signal.SIGKILL)", "os.killpg(0, signal.SIGINT)")
ARGUMENTS = ["-k", "4", "--n-init", "3", "--halve-after", "3", "--max-iter", "12", "--tol", "0"]
ARGUMENTS += ["--init-params", "random", "--seed", "7", "--acceleration", "computing"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.npy"
    np.save(path, rows())
    return path


@pytest.fixture(scope="module")
def calm(data: Path) -> bytes:
    out = data.with_name("calm.safetensors")
    assert main(fit(data, out)) == 0
    return out.read_bytes()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line in this process: exit code and standard error."""

    def run(argv: list[str], at: int = -1, action: Callable[[], Any] = int) -> tuple[int, str]:
        monkeypatch.setattr("dgmm.cli.fitting.follow", lambda *_, **__: Hit(at, action))
        capfd.readouterr()
        code = main(argv)
        return code, capfd.readouterr().err

    return run


def fit(data: Path, out: Path, *more: object) -> list[str]:
    return list(map(str, ["fit", data, *ARGUMENTS, "--out", out, *more]))


def send(*numbers: signal.Signals) -> Callable[[], None]:
    def action() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return action


def test_killed_and_run_again(data: Path, calm: bytes, tmp_path: Path, run: Any) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "11"))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 (shown where the test fails)
    chosen, reached = random.Random(seed), 0  # noqa: S311
    out, keep = tmp_path / "m.safetensors", ("--checkpoint", tmp_path / "kept")
    for _ in range(2):
        reached += chosen.randint(1, 5)
        argv = fit(data, out, *keep, "--checkpoint-every", 2)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(reached), *argv],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
    code, err = run(fit(data, out, *keep, "--resume", "must"))
    assert code == 0, err
    assert "resumed from iteration" in err
    assert out.read_bytes() == calm


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_iteration(
    number: signal.Signals, data: Path, calm: bytes, tmp_path: Path, run: Any
) -> None:
    out, keep = tmp_path / "m.safetensors", ("--checkpoint", tmp_path / "kept")
    before = signal.getsignal(number)
    code, err = run(fit(data, out, *keep), 4, send(number))
    assert code == 75, err
    # What it was about to report was done: the next one is finished.
    assert f"stopped by {number.name} after iteration 5" in err.splitlines()[-1]
    assert "finishing the iteration" in err
    assert signal.getsignal(number) is before
    code, err = run(fit(data, out, *keep))
    assert code == 0, err
    assert "resumed from iteration 5" in err
    assert out.read_bytes() == calm


def test_an_interrupt_of_a_whole_cluster_finishes_the_iteration(
    data: Path, calm: bytes, tmp_path: Path, run: Any
) -> None:
    out, keep = tmp_path / "m.safetensors", ("--checkpoint", tmp_path / "kept")
    argv = fit(data, out, *keep, "--n-workers", 2)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "4", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 75, done.stderr
    assert "stopped by SIGINT after iteration 5" in done.stderr.splitlines()[-1]
    # Of a worker, which the signal is none of the business of.
    assert "Traceback" not in done.stderr
    assert "lost" not in done.stderr
    code, err = run(fit(data, out, *keep))
    assert code == 0, err
    assert "resumed from iteration 5" in err
    assert out.read_bytes() == calm


def test_a_second_signal_ends_at_once(data: Path, tmp_path: Path, run: Any) -> None:
    argv = fit(data, tmp_path / "m", "--checkpoint", tmp_path / "kept")
    code, err = run(argv, 4, send(signal.SIGTERM, signal.SIGTERM))
    assert code == 75
    assert "interrupted before it was done" in err
    # The one before the first iteration alone.
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_without_checkpoints_signals_are_as_ever(data: Path, tmp_path: Path, run: Any) -> None:
    code, err = run(fit(data, tmp_path / "m"), 4, send(signal.SIGTERM))
    assert code == 75
    assert "interrupted before it was done" in err
    seen: list[Any] = []
    run(fit(data, tmp_path / "m"), 4, lambda: seen.append(signal.getsignal(signal.SIGUSR1)))
    assert seen == [signal.SIG_DFL]


def test_other_arguments_are_a_matter_of_the_command(data: Path, tmp_path: Path, run: Any) -> None:
    keep = ("--checkpoint", tmp_path / "kept")
    assert run(fit(data, tmp_path / "m", *keep))[0] == 0
    code, err = run(fit(data, tmp_path / "m", *keep, "--seed", 8))
    assert code == 2
    assert "--seed was 7 and is 8" in err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--resume", "must"), "needs --checkpoint"),
        (("--checkpoint", "x", "--checkpoint-every", "often"), "number of iterations"),
        (("--checkpoint", "x", "--resume", "perhaps"), "perhaps"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], named: str, data: Path, tmp_path: Path, run: Any
) -> None:
    code, err = run(fit(data, tmp_path / "m", *options))
    assert code == 2
    assert named in err
