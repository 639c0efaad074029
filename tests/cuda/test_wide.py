"""Products whose features are made on the chip, run on the host: any rows, shapes, and families."""

from __future__ import annotations

import numpy as np
import pytest

from dgmm.covariance import family_names, family_of
from dgmm.cuda import modules
from dgmm.cuda.wide import WideShape, WideSums
from dgmm.features import Layout, fill_features
from tests.cuda.emulator import Device, emulated_module, needs_compiler

pytestmark = needs_compiler


def _problem(seed, shape, n_rows):
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((shape.n_components, shape.n_coefficients))
    if shape.n_coefficients >= shape.layout.diagonal:
        theta[:, shape.layout.norm] = 0.0
    features = np.ones((shape.layout.full, n_rows))
    features[shape.layout.means] = rng.standard_normal((shape.n_features, n_rows))
    fill_features(features, shape.layout.full, shape.layout, np)
    return theta, features, rng.random((shape.n_components, n_rows))


def _sums(xp, shape, theta):
    return WideSums(xp, shape, theta, Device.most_shared)


def _run(xp, shape, theta, features, weights, tile=1000):
    """Joint densities and sums, tile by tile."""
    sums, joints = _sums(xp, shape, theta), []
    for start in range(0, features.shape[1], tile):
        part = slice(start, start + tile)
        extended = xp.asarray(features[: shape.layout.scalar, part].copy())
        joints.append(sums.log_joint(extended).get())
        sums.add(extended, xp.asarray(weights[:, part].copy()))
    return np.concatenate(joints, axis=1), sums.collect()


def _agrees(xp, shape, n_rows, tile=1000):
    theta, features, weights = _problem(n_rows, shape, n_rows)
    joint, sums = _run(xp, shape, theta, features, weights, tile)
    used = features[: shape.n_coefficients]
    for found, right in ((joint, theta @ used), (sums, weights @ used.T)):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-12 * np.abs(right).max())


@pytest.mark.parametrize("n_rows", [1, 31, 33, 300, 1100])
def test_any_number_of_rows(n_rows, emulated):
    _agrees(emulated, WideShape(5, 3, Layout(5).full), n_rows, tile=300)


@pytest.mark.parametrize(
    ("n_features", "n_components", "block"),
    [(1, 1, "full"), (3, 17, "scalar"), (40, 70, "full"), (9, 64, "full"), (130, 5, "diagonal")],
)
def test_shapes(n_features, n_components, block, emulated):
    shape = WideShape(n_features, n_components, getattr(Layout(n_features), block))
    assert shape.fits(Device.most_shared)
    _agrees(emulated, shape, 70)


@pytest.mark.parametrize("name", family_names())
def test_every_family(name, emulated):
    _agrees(emulated, WideShape(6, 20, family_of(name).shape.block(Layout(6))), 50)


def test_a_start_forgets_all_rows(emulated):
    shape = WideShape(4, 3, Layout(4).full)
    theta, features, weights = _problem(2, shape, 60)
    sums = _sums(emulated, shape, theta)
    extended, weights = emulated.asarray(features[: shape.layout.scalar]), emulated.asarray(weights)
    found = []
    for _ in range(2):
        sums.start()
        sums.add(extended, weights)
        found.append(sums.collect())
    np.testing.assert_array_equal(found[0], found[1])
    sums.start()
    assert np.all(sums.collect() == 0.0)


def test_the_order_in_which_threads_run_changes_no_bit(emulated, monkeypatch):
    shape = WideShape(7, 20, Layout(7).full)
    problem = _problem(3, shape, 500)
    forwards = _run(emulated, shape, *problem)
    monkeypatch.setattr(
        modules,
        "load_module",
        lambda source, defined: emulated_module(source, defined, ("DGMM_REVERSED",)),
    )
    modules._function.cache_clear()
    for one, other in zip(_run(emulated, shape, *problem), forwards, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("n_multiprocessors", [3, 46, 132, 144])
@pytest.mark.parametrize(("d", "k"), [(64, 64), (16, 64), (128, 16), (32, 256)])
def test_slices_give_every_multiprocessor_work(d, k, n_multiprocessors):
    shape = WideShape(d, k, Layout(d).full)
    blocks = shape.feature_blocks * shape.component_blocks
    n = shape.slices(n_multiprocessors) * blocks
    assert n <= max(blocks, 3 * n_multiprocessors)
    waves = -(-n // n_multiprocessors)
    assert n >= 0.9 * waves * n_multiprocessors or blocks > n_multiprocessors


def test_rows_too_long_for_shared_memory_are_left_to_tiles_with_features():
    assert WideShape(64, 64, Layout(64).full).warps(227 * 1024) == 8
    assert WideShape(128, 64, Layout(128).full).warps(227 * 1024) == 4
    assert not WideShape(600, 4, Layout(600).diagonal).fits(227 * 1024)
    assert not WideShape(300, 4, Layout(300).diagonal).fits(99 * 1024)


def test_it_pays_where_features_outnumber_what_rows_hold_and_components_are_few():
    def pays(d, k, block="full"):
        return WideShape(d, k, getattr(Layout(d), block)).pays(227 * 1024)

    assert pays(64, 64)
    assert pays(64, 128)
    assert not pays(64, 256)
    assert pays(128, 64)
    assert not pays(128, 128)
    assert not pays(16, 128)
    assert not pays(256, 16, "diagonal")
