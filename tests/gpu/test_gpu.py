"""On a real GPU: agreement with processors, the same bits, failure, streaming (``make gpu``).

Nothing here runs without a CUDA device. What can be said without one is said in ``tests/cuda``.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import softmax

import dgmm
from dgmm.backend import backend_of
from dgmm.covariance import family_names
from dgmm.cuda.fused import _PLANS, FusedShape, FusedSums
from dgmm.cuda.modules import most_shared
from dgmm.cuda.wide import WideShape
from dgmm.data.dataset import Rows
from dgmm.devices import gpu_count
from dgmm.engine.devices import DeviceStore, _Slab
from dgmm.engine.local import LocalEngine
from dgmm.expectation import BatchPass, RowPass, plan_batch
from dgmm.features import Layout, fill_features
from dgmm.fused import fused_workspace
from dgmm.fused_cuda import FusedOnDevice, WideOnDevice
from dgmm.guard import Level
from dgmm.posterior import Annealed, Classification, Expectation, KnownLabels, Stochastic
from dgmm.testing.families import frames_around
from tests.numerics.problems import random_mixture, rows_of

pytestmark = pytest.mark.gpu

LIMITS = {Level.FLOAT32: 1e-4, Level.FLOAT64: 1e-11, Level.CENTRED: 1e-11}


@pytest.fixture
def cupy():
    return importlib.import_module("cupy")


def _both(kernels, rows, **options):
    tasks = [BatchPass(kernels, device=device, **options) for device in ("cpu", "cuda")]
    return [task.evaluate(rows, task.workspace()).members for task in tasks]


def _agree(right, found, limit):
    for one, other in zip(right, found, strict=True):
        scale = max(1.0, float(np.abs(one.moments).max()))
        np.testing.assert_allclose(other.moments, one.moments, rtol=limit, atol=limit * scale)
        for name in ("log_likelihood", "log_assignment", "weight", "n_rows", "peak"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=limit, abs=limit)


@pytest.mark.parametrize("n_rows", [1, 17, 5000, 70_001])
@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", family_names())
def test_statistics_are_those_of_processors(name, level, n_rows):
    mixture = random_mixture(np.random.default_rng(2), name, 5, 7)
    x = rows_of(mixture, n_rows, 2, level.dtype)
    kernels = plan_batch([mixture], [level], frames_around(mixture))
    weights = np.random.default_rng(3).integers(0, 3, n_rows).astype(float)
    weights[0] = 1.0
    for rows in (Rows(x), Rows(x, weight=weights)):
        _agree(*_both(kernels, rows), LIMITS[level])


@pytest.mark.parametrize(("d", "k"), [(1, 1), (2, 3), (16, 16), (9, 32), (64, 64), (300, 4)])
@pytest.mark.parametrize("name", ["full", "diag", "tied_spherical"])
def test_shapes_of_the_fused_kernel_and_of_tiles(name, d, k):
    if name == "full" and d == 300:
        pytest.skip("45 thousand coefficients say no more than 2 thousand")
    mixture = random_mixture(np.random.default_rng(4), name, k, d)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    for dtype in ("float32", "float64", "float16", "int32"):
        x = rows_of(mixture, 3001, 4).astype(dtype)
        _agree(*_both(kernels, Rows(x)), 1e-10)


@pytest.mark.parametrize(
    "policy",
    [Classification(), Annealed(2.0), Stochastic((1, 2)), KnownLabels(Expectation())],
    ids=lambda policy: type(policy).__name__,
)
def test_policies(policy):
    mixture = random_mixture(np.random.default_rng(8), "full", 3, 4)
    x = rows_of(mixture, 9000, 8)
    labels = np.where(np.arange(9000) % 5 == 0, 2, -1)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    _agree(*_both(kernels, Rows(x, labels=labels), policy=policy), 1e-10)


@pytest.mark.parametrize("output", ["log_density", "responsibilities", "labels"])
def test_values_of_rows(output, cupy):
    mixture = random_mixture(np.random.default_rng(9), "full", 4, 6)
    x = rows_of(mixture, 20_000, 9)
    (kernel,) = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    found = []
    for device, rows in (("cpu", x), ("cuda", x), ("cuda", cupy.asarray(x))):
        task = RowPass(kernel, output, "float64", device)
        found.append(task.evaluate(Rows(rows), task.workspace()))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(found[2], found[1])


@pytest.mark.parametrize("place", [0, 69_999])
@pytest.mark.parametrize("policy", [Expectation(), Classification()], ids=["fused", "tiles"])
def test_a_bad_row_is_named(policy, place):
    mixture = random_mixture(np.random.default_rng(9), "full", 3, 5)
    x = rows_of(mixture, 70_000, 9)
    x[place, 1] = np.nan
    task = BatchPass(plan_batch([mixture], [Level.FLOAT64], frames_around(mixture)), policy, "cuda")
    with pytest.raises(dgmm.InvalidDataError, match=f"row {place}, feature 1 is nan"):
        task.evaluate(Rows(x), task.workspace())


@pytest.fixture
def rows():
    mixture = random_mixture(np.random.default_rng(11), "full", 4, 6, reach=5.0)
    return rows_of(mixture, 200_000, 11, "float32")


def _fit(x, sample_weight=None, **options):
    model = dgmm.GaussianMixture(4, random_state=0, max_iter=8, tol=0.0, **options)
    return model.fit(x, sample_weight=sample_weight)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_reaches_the_log_likelihood_of_processors(rows):
    right, found = _fit(rows, device="cpu", dtype="float64"), _fit(rows, device="cuda")
    np.testing.assert_allclose(found.lower_bounds_, right.lower_bounds_, rtol=1e-9)
    assert found.record_.device == "cuda"
    narrow = _fit(rows, device="cuda", dtype="float32")
    np.testing.assert_allclose(narrow.lower_bounds_, right.lower_bounds_, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_again_streamed_or_kept(rows, dtype, tmp_path, cupy):
    np.save(tmp_path / "rows.npy", rows)
    fits = [_fit(tmp_path / "rows.npy", device="cuda", dtype=dtype) for _ in range(2)]
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    # Enough for the blocks in flight and little more.
    pool.set_limit(pool.used_bytes() + 1500 * 2**20)
    try:
        fits.append(_fit(tmp_path / "rows.npy", device="cuda", dtype=dtype))
    finally:
        pool.set_limit(0)
    for other in fits[1:]:
        np.testing.assert_array_equal(other.covariances_, fits[0].covariances_)
        assert other.lower_bounds_ == fits[0].lower_bounds_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rows_on_the_device_stay_there(rows, cupy):
    x = cupy.asarray(rows)
    found = _fit(x)
    np.testing.assert_allclose(found.means_, _fit(rows, device="cuda").means_, rtol=1e-6)
    assert isinstance(found.predict(x), cupy.ndarray)
    weights = np.arange(len(rows)) % 3.0
    weighted = [_fit(x, sample_weight=one) for one in (weights, cupy.asarray(weights))]
    np.testing.assert_array_equal(weighted[1].means_, weighted[0].means_)


def test_out_of_memory_shrinks_the_slab_and_changes_no_bit(rows, cupy, monkeypatch):
    mixture = random_mixture(np.random.default_rng(11), "full", 4, 6, reach=5.0)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    task = BatchPass(kernels, device="cuda")
    dataset = dgmm.open_dataset(rows, block_bytes=2**20)
    with LocalEngine().session(dataset) as session:
        right = session.run(task).total.members[0]
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    taken = pool.used_bytes()
    # Less than the five blocks of the data, more than one of them and the sums of a kernel.
    pool.set_limit(taken + 3 * 2**20)
    # Unasked, so that the limit is run into.
    monkeypatch.setattr(DeviceStore, "_free_bytes", lambda _: 2**40)
    try:
        with LocalEngine().session(dataset) as session:
            found = session.run(task).total.members[0]
            assert session._devices._slab != _Slab()
    finally:
        pool.set_limit(0)
    np.testing.assert_array_equal(found.moments, right.moments)


def test_a_sticky_error_says_that_the_process_is_lost():
    program = """
import cupy, numpy as np, dgmm
from dgmm.expectation import BatchPass
crash = cupy.RawKernel('extern "C" __global__ void f(int* p) { p[0] = 1; }', "f")
true = BatchPass.evaluate
def evaluate(self, rows, workspace):
    crash((1,), (1,), (np.uintp(1 << 60),))
    return true(self, rows, workspace)
BatchPass.evaluate = evaluate
try:
    dgmm.GaussianMixture(2, device="cuda").fit(np.random.default_rng(0).normal(size=(1000, 2)))
except dgmm.EngineError as error:
    assert "start a new process" in str(error), error
    print("said so")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "said so" in done.stdout, done.stderr


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_gpus_give_the_bits_of_one(rows):
    if gpu_count() < 2:
        pytest.skip("one GPU")
    one, all_of_them = _fit(rows, device="cuda:0"), _fit(rows, device="cuda")
    np.testing.assert_array_equal(all_of_them.covariances_, one.covariances_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_cluster_of_gpus_gives_the_bits_of_this_process(rows, tmp_path):
    from distributed import Client

    from dgmm.engine.gpu_cluster import gpu_cluster

    np.save(tmp_path / "rows.npy", rows)
    right = _fit(tmp_path / "rows.npy", device="cuda")
    with gpu_cluster() as cluster, Client(cluster) as client:
        assert len(client.nthreads()) == gpu_count()
        engine = dgmm.DaskEngine(client)
        found = _fit(tmp_path / "rows.npy", device="cuda", engine=engine)
    np.testing.assert_array_equal(found.covariances_, right.covariances_)


LARGEST = [("diag", 64, 16), ("full", 16, 16), ("full", 32, 32), ("full", 16, 64), ("diag", 64, 64)]


@pytest.mark.parametrize(("name", "d", "k"), LARGEST)
def test_shared_memory_and_registers_allow_the_largest_shapes(name, d, k, cupy):
    mixture = random_mixture(np.random.default_rng(12), name, k, d)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    size = mixture.family.shape.block(Layout(d))
    fits = FusedShape(d, k, size).plan(most_shared(cupy)) is not None
    used = fused_workspace(kernels[0], [Expectation()], backend_of("cuda"))
    assert isinstance(used, FusedOnDevice) is fits
    _agree(*_both(kernels, Rows(rows_of(mixture, 4000, 12))), 1e-10)


@pytest.mark.parametrize("plan", _PLANS)
def test_every_way_of_dividing_a_block_s_work(plan, cupy):
    shape = FusedShape(9, 16, Layout(9).full)
    rng = np.random.default_rng(14)
    theta, x = rng.standard_normal((16, shape.n_coefficients)), rng.standard_normal((5001, 9))
    theta[:, shape.layout.norm] = 0.0
    sums = FusedSums(cupy, shape, plan, theta, np.zeros(9))
    moments, tally = sums.evaluate(cupy.asarray(x), None)
    features = np.ones((shape.n_coefficients, len(x)))
    features[shape.layout.means] = x.T
    fill_features(features, shape.n_coefficients, shape.layout, np)
    right = softmax(theta @ features, axis=0) @ features.T
    np.testing.assert_allclose(moments, right, rtol=1e-11, atol=1e-11 * np.abs(right).max())
    assert tally[3] == len(x)


@pytest.mark.parametrize("policy", [Expectation(), Classification()], ids=["em", "cem"])
@pytest.mark.parametrize(
    ("name", "d", "k"),
    [
        ("full", 64, 64),
        ("full", 33, 70),
        ("full", 130, 3),
        ("diag", 200, 40),
        ("tied_full", 40, 90),
    ],
)
def test_products_whose_features_are_made_on_the_chip(name, d, k, policy, cupy, monkeypatch):
    monkeypatch.setattr(FusedOnDevice, "serves", staticmethod(lambda *_: False))
    monkeypatch.setattr(WideShape, "pays", WideShape.fits)
    mixture = random_mixture(np.random.default_rng(15), name, k, d)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    assert isinstance(fused_workspace(kernels[0], [policy], backend_of("cuda")), WideOnDevice)
    for n_rows in (5, 70_001):
        x = rows_of(mixture, n_rows, 15)
        weight = np.arange(n_rows) % 3.0
        for rows in (Rows(x), Rows(x, weight=weight)):
            _agree(*_both(kernels, rows, policy=policy), 1e-9)


def test_rows_that_are_still_being_made_are_waited_for(cupy):
    mixture = random_mixture(np.random.default_rng(13), "full", 4, 16)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    task, x = BatchPass(kernels, device="cuda"), cupy.zeros((2_000_000, 16))
    dataset = dgmm.open_dataset(x)
    busy = cupy.random.standard_normal((4096, 4096))
    with LocalEngine().session(dataset) as session:
        for _ in range(30):
            cupy.matmul(busy, busy)
        x += cupy.asarray(mixture.means[0])
        found = session.run(task).total.members[0]
        right = session.run(task).total.members[0]
    np.testing.assert_array_equal(found.moments, right.moments)
