"""The CUDA backend, run on the host, gives NumPy's statistics: families, levels, policies."""

from __future__ import annotations

import numpy as np
import pytest

from dgmm import expectation
from dgmm.backend import Backend, CudaBackend
from dgmm.covariance import family_names
from dgmm.cuda import modules, tiles
from dgmm.cuda.wide import WideShape
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError
from dgmm.expectation import BatchPass, RowPass, plan_batch
from dgmm.features import Layout, fill_features
from dgmm.fused import fused_workspace
from dgmm.fused_cuda import FusedOnDevice, WideOnDevice
from dgmm.guard import Level
from dgmm.posterior import Annealed, Classification, Expectation, KnownLabels, Stochastic
from dgmm.screened import Screened
from dgmm.testing.families import frames_around
from tests.cuda.emulator import emulated_module, needs_compiler
from tests.numerics.problems import random_mixture, rows_of

pytestmark = needs_compiler

PLAIN = Backend(np)
STORED = ("float32", "float64", "float16", "int32")


@pytest.fixture
def on_cuda(emulated, monkeypatch):
    """Lets ``device="cuda"`` mean the emulated device. Tiles of 64 rows, so that there are some."""
    backend = CudaBackend(emulated)
    monkeypatch.setattr(expectation, "backend_of", lambda d: PLAIN if d == "cpu" else backend)
    monkeypatch.setattr(CudaBackend, "tile_rows", lambda *_: 64)
    return backend


def _statistics(kernels, rows, **options):
    found = []
    for device in ("cpu", "cuda"):
        task = BatchPass(kernels, device=device, **options)
        found.append(task.evaluate(rows, task.workspace()).members[0])
    return found


def _compare(right, found, limit):
    scale = max(1.0, float(np.abs(right.moments).max()))
    np.testing.assert_allclose(found.moments, right.moments, rtol=limit, atol=limit * scale)
    for name in ("log_likelihood", "log_assignment", "weight", "n_rows", "peak"):
        assert getattr(found, name) == pytest.approx(getattr(right, name), rel=limit, abs=limit)


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", family_names())
def test_statistics_of_every_family_and_level(name, level, on_cuda):
    mixture = random_mixture(np.random.default_rng(5), name, 3, 5)
    x = rows_of(mixture, 150, 5, level.dtype)
    kernels = plan_batch([mixture], [level], frames_around(mixture))
    weights = np.random.default_rng(6).integers(0, 3, 150).astype(float)
    for rows in (Rows(x), Rows(x, weight=weights)):
        right, found = _statistics(kernels, rows)
        _compare(right, found, 2e-5 if level is Level.FLOAT32 else 1e-12)
    task = RowPass(kernels[0], "responsibilities", "float64", "cuda")
    right = RowPass(kernels[0], "responsibilities", "float64")
    np.testing.assert_allclose(
        task.evaluate(Rows(x), task.workspace()),
        right.evaluate(Rows(x), right.workspace()),
        atol=1e-4 if level is Level.FLOAT32 else 1e-12,
    )


def test_what_goes_which_way(on_cuda):
    def mixture(name, k, d):
        return random_mixture(np.random.default_rng(5), name, k, d)

    few, many, long = mixture("full", 3, 4), mixture("full", 40, 25), mixture("diag", 40, 160)
    for one, level, policy, expected in (
        (few, Level.FLOAT64, Expectation(), FusedOnDevice),
        (few, Level.FLOAT64, Classification(), type(None)),
        (many, Level.FLOAT64, Expectation(), WideOnDevice),
        (many, Level.FLOAT64, Classification(), WideOnDevice),
        (long, Level.FLOAT64, Expectation(), type(None)),
        (many, Level.FLOAT32, Expectation(), type(None)),
        (few, Level.CENTRED, Expectation(), type(None)),
    ):
        (kernel,) = plan_batch([one], [level], frames_around(one))
        assert type(fused_workspace(kernel, [policy], on_cuda)) is expected
        assert type(fused_workspace(kernel, [policy], PLAIN)) in (type(None), Screened)


def test_a_batch_of_mixed_families_in_one_pass(on_cuda):
    rng = np.random.default_rng(7)
    mixtures = [random_mixture(rng, name, k, 5) for k, name in enumerate(family_names(), 1)]
    x = rows_of(mixtures[0], 120, 7)
    kernels = plan_batch(mixtures, [Level.FLOAT64] * len(mixtures), frames_around(mixtures[0]))
    tasks = BatchPass(kernels), BatchPass(kernels, device="cuda")
    right, found = (task.evaluate(Rows(x), task.workspace()).members for task in tasks)
    for one, other in zip(right, found, strict=True):
        _compare(one, other, 1e-12)


@pytest.mark.parametrize(
    "policy",
    [Classification(), Annealed(2.0), Stochastic((1, 2)), KnownLabels(Expectation())],
    ids=lambda policy: type(policy).__name__,
)
def test_policies(policy, on_cuda):
    mixture = random_mixture(np.random.default_rng(8), "full", 3, 5)
    x = rows_of(mixture, 200, 8)
    labels = np.where(np.arange(200) % 5 == 0, 2, -1)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    rows = Rows(x, weight=np.arange(200) % 3.0, labels=labels)
    right, found = _statistics(kernels, rows, policy=policy)
    _compare(right, found, 1e-12)


@pytest.mark.parametrize("policy", [Expectation(), Classification()], ids=["fused", "tiles"])
@pytest.mark.parametrize("place", [0, 130])
def test_a_bad_row_is_named(place, policy, on_cuda):
    mixture = random_mixture(np.random.default_rng(9), "full", 3, 5)
    x = rows_of(mixture, 150, 9)
    x[place, 1] = np.nan
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    task = BatchPass(kernels, policy, "cuda")
    with pytest.raises(InvalidDataError, match=f"row {1000 + place}, feature 1 is nan"):
        task.evaluate(Rows(x, first_row=1000), task.workspace())


@pytest.mark.parametrize("policy", [Expectation(), Classification()], ids=["fused", "tiles"])
def test_a_bad_row_is_named_among_rows_that_weigh_nothing(policy, on_cuda):
    mixture = random_mixture(np.random.default_rng(9), "full", 3, 5)
    x, weight = rows_of(mixture, 150, 9), np.arange(150) % 3.0
    x[130, 1] = np.nan
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    task = BatchPass(kernels, policy, "cuda")
    with pytest.raises(InvalidDataError, match="row 1130, feature 1 is nan"):
        task.evaluate(Rows(x, 1000, weight=weight), task.workspace())


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_that_have_to_be_converted_are_in_pieces(weighted, on_cuda, monkeypatch):
    mixture = random_mixture(np.random.default_rng(9), "full", 3, 5)
    x = rows_of(mixture, 150, 9)
    weight = np.arange(150) % 3.0 if weighted else None
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    converted = []
    usual = tiles.readable
    monkeypatch.setattr(
        "dgmm.cuda.fused.readable", lambda xp, x: (converted.append(len(x)), usual(xp, x))[1]
    )
    for stored in ((10 * x).astype("int16"), np.asfortranarray(x)):
        right, found = _statistics(kernels, Rows(stored, weight=weight))
        _compare(right, found, 1e-12)
    assert converted == 2 * [64, 64, 22]


@pytest.mark.parametrize(
    ("n_features", "stored", "dtype"),
    [
        *((5, stored, dtype) for stored in STORED for dtype in ("float32", "float64")),
        *((n, "float64", "float64") for n in (1, 40, 300)),
    ],
)
def test_features_are_those_of_array_calls(n_features, stored, dtype, emulated):
    layout = Layout(n_features)
    sizes = {layout.linear, layout.scalar, layout.diagonal}
    x = (10 * np.random.default_rng(1).standard_normal((70, n_features))).astype(stored)
    origin = np.random.default_rng(2).standard_normal(n_features)
    for size in sizes | ({layout.full} if n_features <= 40 else set()):
        right, found = np.full((2, size, 70), 1.0, dtype)
        PLAIN.load_features(x, origin, right, size, layout)
        found = emulated.asarray(found)
        rows = emulated.asarray(x), emulated.asarray(origin)
        CudaBackend(emulated).load_features(*rows, found, size, layout)
        found = found.get()
        np.testing.assert_allclose(found, right, rtol=8 * np.finfo(dtype).eps)
        again = emulated.asarray(right)
        again[layout.linear :] = -1.0
        CudaBackend(emulated).fill_features(again, size, layout)
        np.testing.assert_allclose(again.get(), right, rtol=8 * np.finfo(dtype).eps)


def test_features_of_rows_with_gaps(emulated):
    layout, x = Layout(3), np.random.default_rng(3).standard_normal((50, 6))
    x = emulated.asarray(x)
    for rows in (x[:, ::2], emulated.asfortranarray(x[:, :3]), x[::2, :3]):
        right, found = np.ones((layout.full, len(rows))), emulated.ones((layout.full, len(rows)))
        right[layout.means] = rows.T.get()
        fill_features(right, layout.full, layout, np)
        tiles.load_features(emulated, rows, emulated.zeros(3), found, layout.full, layout)
        np.testing.assert_allclose(found.get(), right, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_rows", [1, 31, 32, 100])
@pytest.mark.parametrize("n_components", [1, 8, 19])
def test_responsibilities_are_those_of_array_calls(n_components, n_rows, dtype, emulated):
    rng = np.random.default_rng(n_rows)
    joint = (-20 * rng.standard_exponential((n_components, n_rows))).astype(dtype)
    if n_components > 1:
        joint[1] = -np.inf
    right, found = joint.copy(), emulated.asarray(joint)
    top, total = PLAIN.softmax(right)
    found_top, found_total = CudaBackend(emulated).softmax(found)
    unit = float(np.finfo(dtype).eps)
    np.testing.assert_array_equal(found_top.get(), top)
    np.testing.assert_allclose(found_total.get(), total, rtol=8 * unit)
    np.testing.assert_allclose(found.get(), right, rtol=16 * unit, atol=np.finfo(dtype).tiny)


def test_the_order_in_which_threads_run_changes_no_bit(on_cuda, monkeypatch):
    mixture = random_mixture(np.random.default_rng(5), "full", 3, 5)
    kernels = plan_batch([mixture], [Level.FLOAT32], frames_around(mixture))
    rows = Rows(rows_of(mixture, 150, 5, "float32"), weight=np.arange(150) % 3.0)
    _, forwards = _statistics(kernels, rows)
    monkeypatch.setattr(
        modules,
        "load_module",
        lambda source, defined: emulated_module(source, defined, ("DGMM_REVERSED",)),
    )
    modules._function.cache_clear()
    _, backwards = _statistics(kernels, rows)
    np.testing.assert_array_equal(backwards.moments, forwards.moments)
    assert backwards.log_likelihood == forwards.log_likelihood


def test_sums_in_float32_are_over_fewer_rows(emulated):
    backend = CudaBackend(emulated)
    assert backend.tile_rows(10, 4) == 32768 < backend.tile_rows(10, 8)


@pytest.mark.parametrize("name", family_names())
def test_products_whose_features_are_made_on_the_chip(name, on_cuda, monkeypatch):
    policy = Classification() if name == "diag" else Expectation()
    monkeypatch.setattr(FusedOnDevice, "serves", staticmethod(lambda *_: False))
    monkeypatch.setattr(WideShape, "pays", WideShape.fits)
    mixture = random_mixture(np.random.default_rng(1), name, 70, 9)
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    assert type(fused_workspace(kernels[0], [policy], on_cuda)) is WideOnDevice
    x = rows_of(mixture, 1130, 3)
    for weight in (None, np.arange(1130) % 3.0):
        if weight is not None:
            x[weight == 0.0] = np.nan
        right, found = _statistics(kernels, Rows(x, weight=weight), policy=policy)
        _compare(right, found, 1e-12)


def test_rows_too_long_for_shared_memory_go_through_tiles(on_cuda):
    mixture = random_mixture(np.random.default_rng(1), "spherical", 2, 400)
    (kernel,) = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    assert fused_workspace(kernel, [Expectation()], on_cuda) is None
    right, found = _statistics((kernel,), Rows(rows_of(mixture, 130, 3)))
    _compare(right, found, 1e-12)
