"""Passes on emulated devices: what is copied, kept, shrunk and given up, and the bits of it all."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

import dgmm
from dgmm import devices
from dgmm.data.opening import open_dataset
from dgmm.engine.devices import COMPUTING, _Slab
from dgmm.engine.local import LocalEngine
from dgmm.engine.memory import READERS
from dgmm.expectation import BatchPass, RowPass, plan_batch
from dgmm.guard import Level
from dgmm.testing.families import frames_around
from tests.cuda.emulator import (
    CUDARuntimeError,
    Device,
    DeviceArray,
    OutOfMemoryError,
    needs_compiler,
)
from tests.numerics.problems import random_mixture, rows_of

pytestmark = needs_compiler

MIXTURE = random_mixture(np.random.default_rng(1), "full", 3, 5)
KERNELS = plan_batch([MIXTURE], [Level.FLOAT64], frames_around(MIXTURE))
X = rows_of(MIXTURE, 320, 1)
# 8 blocks of 40 rows.
BLOCK = 40 * 5 * 8


def _session(x=X, **options):
    return LocalEngine(n_threads=2).session(open_dataset(x, block_bytes=BLOCK), **options)


def _run(session, device="cuda"):
    return session.run(BatchPass(KERNELS, device=device)).total.members[0]


def _same(one, other):
    np.testing.assert_array_equal(one.moments, other.moments)
    assert one.log_likelihood == other.log_likelihood


@pytest.fixture
def right():
    with _session() as session:
        return _run(session, "cpu")


def test_a_pass_gives_what_processors_give(cupy, right):
    cupy()
    with _session() as session:
        found = _run(session)
    np.testing.assert_allclose(found.moments, right.moments, rtol=1e-12, atol=1e-9)
    assert found.log_likelihood == pytest.approx(right.log_likelihood, rel=1e-13)


def test_the_number_of_devices_and_what_they_keep_change_no_bit(cupy):
    found = []
    for n, limit in ((1, 2**40), (3, 2**40), (1, 40 * BLOCK)):
        cupy(n).memory.limit = limit
        with _session() as session:
            found += [_run(session), _run(session)]
    for other in found[1:]:
        _same(found[0], other)


def test_blocks_are_copied_once_if_they_fit(cupy, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    there = cupy()
    with _session(tmp_path / "rows.npy") as session:
        for _ in range(3):
            _run(session)
        copied = [event for stream in there.streams for event in stream.events]
        assert session.counters.block_reads == 8
        assert copied.count(("copy", BLOCK)) == 8
        assert session._devices.kept_bytes == X.nbytes
    assert there.memory.used_bytes() < X.nbytes


def test_every_copy_has_arrived_before_its_block_is_handed_over(cupy):
    there = cupy()
    with _session() as session:
        _run(session)
    events = [stream.events for stream in there.streams]
    assert sum(len(one) for one in events) == 16
    for one in events:
        assert one == [("copy", BLOCK), ("synchronize", 0)] * (len(one) // 2)


def test_streams_are_used_again(cupy):
    there = cupy()
    with _session() as session:
        for _ in range(3):
            _run(session)
    # Two readers, two computing threads, and what asks for the free memory.
    assert len(there.streams) <= 5


def test_rows_in_pinned_memory_are_not_copied_before(cupy, monkeypatch):
    there = cupy()
    pinned = SimpleNamespace(type=1)
    there.cuda.runtime.pointerGetAttributes = lambda _pointer: pinned
    monkeypatch.setattr(there.cuda, "alloc_pinned_memory", _raises(AssertionError()))
    with _session() as session:
        _run(session)


@pytest.mark.parametrize("spare", [40, 5, 3])
def test_less_memory_keeps_less_and_changes_no_bit(spare, cupy, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    there = cupy()
    with _session(tmp_path / "rows.npy") as session:
        expected = _run(session)
    task = BatchPass(KERNELS, device="cuda")
    workspace = task.workspace()[0]._sums[0]
    fixed = workspace._partial.nbytes + workspace._result.nbytes
    del workspace
    there.memory.limit = there.memory.used_bytes() + 2 * fixed + spare * BLOCK
    # The projection is bypassed: what it leaves out has to be found out by running into it.
    there.cuda.runtime.memGetInfo = lambda: (2**40, 2**40)
    with _session(tmp_path / "rows.npy") as session:
        _same(_run(session), expected)
        _same(_run(session), expected)
        assert session._devices.kept_bytes <= spare * BLOCK
        assert (session._devices._slab == _Slab()) == (spare > 8)


def test_a_device_that_is_too_small_is_said_to_be(cupy):
    there = cupy()
    there.memory.limit = BLOCK // 2
    with _session() as session, pytest.raises(dgmm.MemoryLimitError, match="smaller block_bytes"):
        _run(session)


def test_a_lost_device_ends_the_pass_with_what_to_do(cupy, monkeypatch):
    cupy()
    monkeypatch.setattr(BatchPass, "evaluate", _raises(CUDARuntimeError(700)))
    with _session() as session, pytest.raises(dgmm.EngineError, match="start a new process"):
        _run(session)


def test_an_error_of_the_data_names_the_block(cupy):
    cupy()
    x = X.copy()
    x[130, 2] = np.nan
    with _session(x) as session, pytest.raises(dgmm.InvalidDataError, match="in block 3"):
        _run(session)


def test_rows_on_a_device_need_no_pinned_memory(cupy):
    there = cupy(2)
    for x, pinned in ((there.asarray(X), 0), (X, 2 * 2 * BLOCK)):
        with _session(x) as session:
            _run(session)
            assert session.plan.items["pinned memory"] == pinned


def test_rows_on_another_device_are_copied_once_and_waited_for(cupy, right, monkeypatch):
    there = cupy(2)
    copied, usual = [], DeviceArray.copy
    monkeypatch.setattr(
        DeviceArray, "copy", lambda self: (copied.append(len(self)), usual(self))[1]
    )
    with _session(there.asarray(X)) as session:
        for _ in range(3):
            found = _run(session)
    np.testing.assert_allclose(found.moments, right.moments, rtol=1e-12, atol=1e-9)
    assert copied == [40] * 4
    waits = [event for stream in there.streams for event in stream.events]
    assert waits.count(("synchronize", 0)) == 4


def test_rows_in_the_making_are_waited_for(cupy):
    there = cupy()
    x, waited = there.asarray(X), []
    there.cuda.runtime.deviceSynchronize = lambda: waited.append(True)
    with _session(x) as session:
        _run(session)
    assert waited


def test_the_device_of_the_callers_thread_stays_what_it_was(cupy):
    cupy(2)
    with pytest.warns(UserWarning, match="did not converge"):
        dgmm.GaussianMixture(2, device="cuda:1", max_iter=1, tol=0.0).fit(X).predict(X)
    with _session() as session:
        _run(session, "cuda:1")
    assert Device().id == 0


def test_threads_are_those_of_the_passes_before(cupy, monkeypatch):
    cupy()
    threads, usual = set(), BatchPass.evaluate
    monkeypatch.setattr(
        BatchPass,
        "evaluate",
        lambda *given: (threads.add(threading.current_thread()), usual(*given))[1],
    )
    with _session() as session:
        for _ in range(4):
            _run(session)
    assert 1 <= len(threads) <= READERS + COMPUTING
    assert not any(thread.is_alive() for thread in threads)


def test_values_of_rows(cupy):
    cupy(2)
    task = RowPass(KERNELS[0], "labels", "float64", "cuda")
    with _session() as session:
        labels = np.concatenate([part for _, part in session.stream(task)])
        plain = [part for _, part in session.stream(RowPass(KERNELS[0], "labels", "float64"))]
    np.testing.assert_array_equal(labels, np.concatenate(plain))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OutOfMemoryError(), dgmm.MemoryLimitError),
        (CUDARuntimeError(700), dgmm.EngineError),
        (KeyError("x"), KeyError),
    ],
)
def test_errors_while_values_are_streamed_say_what_to_do(raised, expected, cupy, monkeypatch):
    cupy()
    task = RowPass(KERNELS[0], "labels", "float64", "cuda")
    monkeypatch.setattr(RowPass, "evaluate", _raises(raised))
    with _session() as session, pytest.raises(expected):
        list(session.stream(task))


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(device, cupy):
    cupy(0)
    with _session() as session, pytest.raises(dgmm.MissingDependencyError, match=r"cuda12.*cpu"):
        _run(session, device)


def test_what_errors_mean():
    assert devices.is_out_of_memory(OutOfMemoryError())
    assert devices.is_out_of_memory(CUDARuntimeError(2))
    assert not devices.is_out_of_memory(MemoryError())
    for status, full in ((3, True), (13, False)):
        error = type("CUBLASError", (RuntimeError,), {"status": status})()
        assert devices.is_out_of_memory(error) is full
    assert devices.is_sticky(CUDARuntimeError(719))
    assert not devices.is_sticky(CUDARuntimeError(2))
    assert not devices.is_sticky(ValueError())


def _raises(error):
    def call(*_):
        raise error

    return call
