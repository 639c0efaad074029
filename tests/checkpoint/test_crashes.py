"""A crash at every operation of every write, and what is left to go on from."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dgmm
from dgmm.checkpoint import Checkpoints, Keeper, StopRequest
from dgmm.checkpoint.places import Bucket, Directory
from dgmm.data.location import Location
from dgmm.durable import Disk
from dgmm.errors import CheckpointMismatchError, FitStoppedError, StoreUnavailableError
from tests.checkpoint.fits import Cut, estimator, rows, same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = rows(n_rows=120, n_features=2)
ARGUMENTS = {"n_components": 3, "max_iter": 4, "acceleration": "computing"}


class CrashingDisk(Disk):
    """A disk of a machine that dies at operation number ``at``, in the middle of it.

    Nothing works afterwards, cleaning up included. :meth:`lose` then takes away what the system
    was free not to have brought to the disk yet.
    """

    def __init__(self, at: int) -> None:
        self.at, self.done = at, 0
        self.unsynced: dict[Path, int] = {}
        self.unnamed: list[tuple[Path, Path]] = []
        self.removed: list[tuple[Path, bytes]] = []
        self.unsynced_directories: list[Path] = []

    def step(self, half: Callable[[], Any] | None = None) -> None:
        if self.done == self.at and half is not None:
            half()
        self.done += 1
        if self.done > self.at:
            raise Cut

    def write(self, path: Path, content: bytes) -> None:
        self.unsynced[path] = len(content) // 3
        self.step(lambda: path.write_bytes(content[: len(content) // 2]))
        super().write(path, content)

    def sync(self, path: Path) -> None:
        self.step()
        super().sync(path)
        del self.unsynced[path]

    def rename(self, path: Path, new: Path) -> None:
        self.step()
        super().rename(path, new)
        self.unnamed.append((path, new))
        if path in self.unsynced:
            self.unsynced[new] = self.unsynced.pop(path)

    def sync_directory(self, path: Path) -> None:
        self.step()
        super().sync_directory(path)
        self.unnamed, self.removed = [], []
        self.unsynced_directories = [one for one in self.unsynced_directories if one.parent != path]

    def make_directory(self, path: Path) -> None:
        self.step()
        super().make_directory(path)
        self.unsynced_directories.append(path)

    def remove(self, path: Path) -> None:
        self.step()
        if path.exists():
            self.removed.append((path, path.read_bytes()))
        super().remove(path)

    def lose(self) -> None:
        """Undo what was never synced."""
        for path, length in self.unsynced.items():
            if path.exists():
                os.truncate(path, length)
        for old, new in reversed(self.unnamed):
            if new.exists():
                new.rename(old)
        for path, content in self.removed:
            path.write_bytes(content)
        for path in self.unsynced_directories:
            shutil.rmtree(path, ignore_errors=True)


class OnDisk(Checkpoints):
    """Checkpoints through a given disk."""

    disk: Disk

    def open(self) -> Keeper:
        return Keeper(Directory(Path(self.place), self.disk), self.keep)


def on_disk(place: Path, disk: Disk) -> OnDisk:
    checkpoints = OnDisk(place, keep=2)
    object.__setattr__(checkpoints, "disk", disk)
    return checkpoints


def fitted(checkpoint: Any = None) -> Any:
    return estimator(**ARGUMENTS, checkpoint=checkpoint, checkpoint_every=1).fit(X)


def of_restarts(checkpoint: Any = None) -> Any:
    """Stochastic EM: two of five restarts are left after two iterations, and one after four."""
    gm = estimator(
        n_components=3, max_iter=5, algorithm="sem", n_init=5, halve_after=2,
        checkpoint=checkpoint, checkpoint_every=1,
    )  # fmt: skip
    return gm.fit(X)


def selected(checkpoint: Any = None) -> Any:
    """Candidates of several sizes and families, restarts of each, and rows held out."""
    return dgmm.select_model(
        X, (2, 3), covariance_types=("full", "tied"), criterion="heldout", n_init=2, halve_after=1,
        acceleration="reading", random_state=3, tol=1e-12, max_iter=5, init_params="random",
        checkpoint=checkpoint, checkpoint_every=1,
    )  # fmt: skip


FITS = {"accelerated": fitted, "stochastic": of_restarts, "selection": selected}


def same(one: Any, other: Any) -> None:
    if isinstance(one, dgmm.Selection):
        assert one.table.to_dicts() == other.table.to_dicts()
        one, other = one.best_, other.best_
    same_bits(one, other)


@pytest.fixture(scope="module")
def whole() -> Any:
    return fitted()


def operations(place: Path, fit: Callable[..., Any] = fitted) -> int:
    disk = CrashingDisk(10**6)
    fit(on_disk(place, disk))
    return disk.done


@pytest.mark.parametrize("loses", [False, True], ids=["all arrived", "only what was synced"])
@pytest.mark.parametrize("kind", FITS)
def test_a_crash_at_every_operation(tmp_path: Path, kind: str, loses: bool) -> None:
    fit, whole = FITS[kind], FITS[kind]()
    # Three directories that have to be made, then the files.
    total = operations(tmp_path / "calm/of/fits", fit)
    assert total >= 28
    for at in range(total):
        place, disk = tmp_path / f"crash{at}/of/fits", CrashingDisk(at)
        with pytest.raises(Cut):
            fit(on_disk(place, disk))
        if loses:
            disk.lose()
        # What is left is whole: nothing is damaged, and nothing warned of.
        same(fit(Checkpoints(place, keep=2)), whole)
        left = sorted(path.name for path in place.iterdir())
        assert len(left) <= 3, f"crash at operation {at}: {left}"
        assert not [name for name in left if name.endswith(".tmp")], f"crash at {at}: {left}"


def test_a_crash_at_every_operation_of_a_fit_that_begins_anew(tmp_path: Path, whole: Any) -> None:
    """What another fit has left is there, or what this one has: never a mixture of both."""

    def anew(checkpoints: Checkpoints) -> Any:
        gm = estimator(**ARGUMENTS, checkpoint=checkpoints, checkpoint_every=1, resume="never")
        return gm.fit(X)

    def left_by_another(place: Path) -> Path:
        estimator(**ARGUMENTS | {"n_components": 2}, checkpoint=place, checkpoint_every=1).fit(X)
        return place

    calm = CrashingDisk(10**6)
    anew(on_disk(left_by_another(tmp_path / "calm"), calm))
    for at in range(calm.done):
        place, disk = left_by_another(tmp_path / str(at)), CrashingDisk(at)
        with pytest.raises(Cut):
            anew(on_disk(place, disk))
        disk.lose()
        try:
            found = fitted(Checkpoints(place, keep=2))
        except CheckpointMismatchError:
            found = anew(Checkpoints(place, keep=2))
        same_bits(found, whole)
        same_bits(fitted(Checkpoints(place, keep=2)), whole)


def test_a_crash_while_resuming_from_a_crash(tmp_path: Path, whole: Any) -> None:
    place = tmp_path / "twice"
    for at in (9, 6, 3, 8, 12):
        disk = CrashingDisk(at)
        try:
            fitted(on_disk(place, disk))
        except Cut:
            disk.lose()
    same_bits(fitted(place), whole)


class CrashingFiles:
    """An object store whose client dies at write or removal number ``at``, before or after it."""

    def __init__(self, files: Any, at: int, *, after: bool) -> None:
        self.files, self.at, self.after, self.done = files, at, after, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)

    def _step(self, action: Callable[[], None]) -> None:
        self.done += 1
        if self.done <= self.at or (self.after and self.done == self.at + 1):
            action()
        if self.done > self.at:
            raise Cut

    def pipe_file(self, path: str, content: bytes) -> None:
        self._step(lambda: self.files.pipe_file(path, content))

    def rm_file(self, path: str) -> None:
        self._step(lambda: self.files.rm_file(path))


class InBucket(Checkpoints):
    """Checkpoints through given files."""

    at: int
    after: bool
    files: CrashingFiles

    def open(self) -> Keeper:
        bucket = Bucket(Location.of(self.place))
        bucket._files = CrashingFiles(bucket._files, self.at, after=self.after)
        object.__setattr__(self, "files", bucket._files)
        return Keeper(bucket, self.keep)


def in_bucket(url: str, at: int, *, after: bool) -> InBucket:
    checkpoints = InBucket(url, keep=2)
    object.__setattr__(checkpoints, "at", at)
    object.__setattr__(checkpoints, "after", after)
    return checkpoints


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("kind", FITS)
def test_a_crash_at_every_operation_of_an_object_store(kind: str, after: bool) -> None:
    pytest.importorskip("fsspec")
    fit, whole = FITS[kind], FITS[kind]()
    root = f"memory://crashes-{kind}-{after}"
    calm = in_bucket(f"{root}/calm", 10**6, after=False)
    fit(calm)
    assert calm.files.done > 12
    for at in range(calm.files.done):
        url = f"{root}/{at}"
        with pytest.raises(Cut):
            fit(in_bucket(url, at, after=after))
        same(fit(Checkpoints(url, keep=2)), whole)


# -------------------------------------------------------------------- a disk that does not take it


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_system_that_cannot_sync_directories_is_enough(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    same_bits(fitted(tmp_path / "x"), whole)
    assert list((tmp_path / "x").iterdir())


def test_old_checkpoints_that_cannot_be_removed_stay(
    tmp_path: Path, whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Sticky(Disk):
        def remove(self, path: Path) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    same_bits(fitted(on_disk(tmp_path / "x", Sticky())), whole)
    assert len(list((tmp_path / "x").iterdir())) > 2
    assert "older ones stay: cannot remove a checkpoint in" in caplog.text


def test_a_checkpoint_that_the_disk_cannot_give_back_is_fallen_back_from(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(Checkpoints(tmp_path, keep=2))
    newest, opened = max(tmp_path.iterdir()), Directory.open

    class Bad(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    def open_bad(place: Directory, number: int) -> Any:
        file, size = opened(place, number)
        return (Bad(), size) if place.label(number) == str(newest) else (file, size)

    monkeypatch.setattr(Directory, "open", open_bad)
    with pytest.warns(match="Input/output error"):
        same_bits(fitted(Checkpoints(tmp_path, keep=2)), whole)


class FullDisk(Disk):
    """A disk without space for a while."""

    def __init__(self, full: Callable[[int], bool]) -> None:
        self.full, self.writes = full, 0

    def write(self, path: Path, content: bytes) -> None:
        self.writes += 1
        if self.full(self.writes):
            path.write_bytes(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, content)


def test_a_full_disk_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"cannot write a checkpoint to .*No space"):
        fitted(on_disk(tmp_path, FullDisk(bool)))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_does_not_end_the_fit(tmp_path: Path, whole: Any) -> None:
    with pytest.warns(RuntimeWarning, match="no checkpoint of iteration 2, and the fit goes on"):
        gm = fitted(on_disk(tmp_path, FullDisk(lambda write: write > 2)))
    same_bits(gm, whole)
    assert any("no checkpoint of iteration 2" in note for note in gm.record_.notes)
    # The older ones are as they were.
    again = fitted(tmp_path)
    same_bits(again, whole)
    assert any("resumed from iteration 1:" in note for note in again.record_.notes)


def test_a_stop_on_a_full_disk_says_that_it_stopped(tmp_path: Path) -> None:
    full = on_disk(tmp_path, FullDisk(lambda write: write > 2))
    gm = estimator(**ARGUMENTS, checkpoint=full, checkpoint_every=1)
    gm._stop = StopRequest()
    gm._on_event = lambda event: event.iteration == 2 and gm._stop.make("SIGTERM")
    with (
        pytest.warns(RuntimeWarning, match="no checkpoint of iteration 2"),
        pytest.raises(FitStoppedError, match=r"stopped by SIGTERM after iteration 3, without a ch"),
    ):
        gm.fit(X)


def test_a_disk_that_has_space_again_is_written_again(tmp_path: Path, whole: Any) -> None:
    with pytest.warns(RuntimeWarning, match="no checkpoint of iteration 1"):
        fitted(on_disk(tmp_path, FullDisk(lambda write: write == 2)))
    again = fitted(tmp_path)
    assert any("resumed from iteration 4:" in note for note in again.record_.notes)
    same_bits(again, whole)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with some options, where that is allowed."""
    place = tmp_path / "small"
    place.mkdir()

    def mount(options: str) -> Path:
        line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.geteuid() or subprocess.run(line, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def test_a_real_disk_without_space(mounted: Callable[[str], Path], whole: Any) -> None:
    place = mounted("size=16k")
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        gm = fitted(Checkpoints(place, keep=9))
    same_bits(gm, whole)
    assert 2 <= len(list(place.iterdir())) <= 3


def test_a_real_disk_that_is_read_only(mounted: Callable[[str], Path], whole: Any) -> None:
    place = mounted("size=1m")
    estimator(**ARGUMENTS | {"max_iter": 2}, checkpoint=place, checkpoint_every=1).fit(X)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    # What is there can be gone on from, and nothing can begin.
    with pytest.warns(RuntimeWarning, match=r"no checkpoint of iteration 3.*Read-only"):
        same_bits(fitted(place), whole)
    with pytest.raises(StoreUnavailableError, match="Read-only file system"):
        estimator(**ARGUMENTS, checkpoint=place, resume="never").fit(X)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match=r"cannot make the directory .*file/inside"):
        fitted(file / "inside")
    with pytest.raises(OSError, match=r"cannot list .*file"):
        fitted(file)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid():
        with pytest.raises(StoreUnavailableError, match="Permission denied"):
            fitted(locked)
