"""The fused kernel, run on the host, gives the NumPy kernels' statistics for every family."""

from __future__ import annotations

import numpy as np
import pytest

from dgmm.covariance import family_names, family_of
from dgmm.cuda import modules
from dgmm.cuda.fused import _PLANS, FusedShape, FusedSums, Plan
from dgmm.features import Layout, fill_features
from tests.cuda.emulator import Device, emulated_module, needs_compiler

pytestmark = needs_compiler

BLOCKS = ("linear", "scalar", "diagonal", "full")


def _problem(seed, shape, n_rows, dtype="float64", scale=1.0):
    rng = np.random.default_rng(seed)
    theta = scale * rng.standard_normal((shape.n_components, shape.n_coefficients))
    if shape.n_coefficients >= shape.layout.diagonal:
        theta[:, shape.layout.norm] = 0.0
    x = rng.standard_normal((n_rows, shape.n_features)).astype(dtype)
    return theta, x, rng.standard_normal(shape.n_features)


def _expected(shape, theta, x, origin, weights=None):
    features = np.ones((shape.n_coefficients, len(x)))
    features[shape.layout.means] = (x.astype(np.float64) - origin).T
    fill_features(features, shape.n_coefficients, shape.layout, np)
    joint = theta @ features
    top = joint.max(axis=0)
    exponentials = np.exp(joint - top)
    total = exponentials.sum(axis=0)
    weights = np.ones(len(x)) if weights is None else weights
    density = top + np.log(total)
    sums = (exponentials / total * weights) @ features.T
    tally = (
        weights @ density, -weights @ np.log(total), weights.sum(), float((weights > 0).sum()),
        density[weights > 0].max(initial=-np.inf),
    )  # fmt: skip
    return sums, np.array(tally)


def _run(xp, shape, theta, origin, x, weights=None):
    weights = None if weights is None else xp.asarray(weights)
    plan = shape.plan(Device.most_shared)
    return FusedSums(xp, shape, plan, theta, origin).evaluate(xp.asarray(x), weights)


def _compare(found, expected, limit=1e-12):
    (sums, tally), (right_sums, right_tally) = found, expected
    np.testing.assert_allclose(sums, right_sums, rtol=limit, atol=limit * np.abs(right_sums).max())
    np.testing.assert_allclose(tally[:5], right_tally, rtol=limit, atol=limit)
    assert tally[5] == -1.0


@pytest.mark.parametrize("n_rows", [1, 15, 17, 1000])
@pytest.mark.parametrize("block", BLOCKS)
def test_sums_and_tallies_of_any_number_of_rows(block, n_rows, emulated):
    shape = FusedShape(5, 3, getattr(Layout(5), block))
    theta, x, origin = _problem(n_rows, shape, n_rows)
    _compare(_run(emulated, shape, theta, origin, x), _expected(shape, theta, x, origin))


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize(
    ("n_features", "n_components", "block"),
    [(1, 1, "full"), (16, 16, "full"), (9, 17, "full"), (33, 3, "scalar")],
)
def test_shapes_and_stored_dtypes(n_features, n_components, block, dtype, emulated):
    shape = FusedShape(n_features, n_components, getattr(Layout(n_features), block))
    assert shape.plan(Device.most_shared) is not None
    theta, x, origin = _problem(1, shape, 70, scale=0.3)
    x = (3 * x).astype(dtype)
    _compare(_run(emulated, shape, theta, origin, x), _expected(shape, theta, x, origin))


def test_rows_of_weight_zero_may_hold_anything(emulated):
    shape = FusedShape(5, 3, Layout(5).full)
    theta, x, origin = _problem(2, shape, 300)
    weights = np.random.default_rng(3).integers(0, 3, 300).astype(float)
    expected = _expected(shape, theta, x, origin, weights)
    x[weights == 0] = np.nan
    _compare(_run(emulated, shape, theta, origin, x, weights), expected)


def test_nothing_but_weight_zero_is_nothing(emulated):
    shape = FusedShape(5, 3, Layout(5).full)
    theta, x, origin = _problem(2, shape, 40)
    sums, tally = _run(emulated, shape, theta, origin, x, np.zeros(40))
    assert np.all(sums == 0.0)
    assert tally.tolist() == [0.0, 0.0, 0.0, 0.0, -np.inf, -1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("place", [0, 77])
def test_the_first_bad_row_is_named(place, bad, emulated):
    shape = FusedShape(5, 3, Layout(5).full)
    theta, x, origin = _problem(4, shape, 200)
    x[[place, 199], 1] = bad
    _, tally = _run(emulated, shape, theta, origin, x)
    assert tally[5] == place


def test_a_row_too_far_from_every_component_is_named(emulated):
    shape = FusedShape(2, 3, Layout(2).diagonal)
    theta, x, origin = _problem(4, shape, 40)
    theta[:, shape.layout.squares] = -1e300
    x[21] = 1e10
    _, tally = _run(emulated, shape, theta, origin, x)
    assert tally[5] == 21


def test_components_far_apart_and_without_weight(emulated):
    shape = FusedShape(5, 4, Layout(5).full)
    theta, x, origin = _problem(5, shape, 100, scale=400.0)
    theta[2, 0] = np.finfo(float).min / 4
    found = _run(emulated, shape, theta, origin, x)
    _compare(found, _expected(shape, theta, x, origin))
    assert np.all(found[0][2] == 0.0)


def test_the_bits_are_the_same_again_and_for_the_kind_of_device(emulated, monkeypatch):
    shape = FusedShape(5, 3, Layout(5).full)
    theta, x, origin = _problem(6, shape, 3000)
    found = [_run(emulated, shape, theta, origin, x) for _ in range(2)]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    monkeypatch.setattr(Device, "n", 5)
    _compare(
        _run(emulated, shape, theta, origin, x),
        (found[0][0], found[0][1][:5]),
        1e-12,
    )


def test_the_matrix_product_of_older_devices_is_the_same(emulated, monkeypatch):
    shape = FusedShape(5, 20, Layout(5).full)
    theta, x, origin = _problem(7, shape, 100)
    expected = _expected(shape, theta, x, origin)
    monkeypatch.setattr(
        modules,
        "load_module",
        lambda source, defined: emulated_module(source, defined, ("DGMM_DIVIDED_PRODUCT",)),
    )
    modules._function.cache_clear()
    _compare(_run(emulated, shape, theta, origin, x), expected)


@pytest.mark.parametrize("block", ["scalar", "full"])
def test_the_order_in_which_threads_run_changes_no_bit(block, emulated, monkeypatch):
    shape = FusedShape(5, 3, getattr(Layout(5), block))
    theta, x, origin = _problem(8, shape, 500)
    weights = np.arange(500) % 3.0
    forwards = _run(emulated, shape, theta, origin, x, weights)
    monkeypatch.setattr(
        modules,
        "load_module",
        lambda source, defined: emulated_module(source, defined, ("DGMM_REVERSED",)),
    )
    modules._function.cache_clear()
    backwards = _run(emulated, shape, theta, origin, x, weights)
    np.testing.assert_array_equal(backwards[0], forwards[0])
    np.testing.assert_array_equal(backwards[1], forwards[1])


@pytest.mark.parametrize("name", family_names())
def test_every_family_has_its_features(name):
    layout = Layout(6)
    shape = FusedShape(6, 3, family_of(name).shape.block(layout))
    row = np.arange(1.0, 7.0)
    extended = np.concatenate([[1.0], row, [row @ row]])
    features = np.ones((shape.n_coefficients, 1))
    features[layout.means, 0] = row
    fill_features(features, shape.n_coefficients, layout, np)
    pairs = shape.pairs(shape.n_made)
    made = extended[pairs & 0xFFFF] * extended[pairs >> 16]
    np.testing.assert_array_equal(made, features[shape.columns, 0])


@pytest.mark.parametrize("name", ["full", "spherical"])
def test_every_way_of_dividing_the_work_gives_the_same(name, emulated):
    shape = FusedShape(9, 20, family_of(name).shape.block(Layout(9)))
    theta, x, origin = _problem(9, shape, 333)
    weights = np.arange(333) % 3.0
    expected = _expected(shape, theta, x, origin, weights)
    for plan in (*_PLANS, Plan(4, 2, 0), Plan(8, 1, 0)):
        sums = FusedSums(emulated, shape, plan, theta, origin)
        _compare(sums.evaluate(emulated.asarray(x), emulated.asarray(weights)), expected)


def test_what_registers_do_not_hold_is_left_to_others():
    plans = {
        (d, k): FusedShape(d, k, Layout(d).full).plan()
        for d, k in ((16, 16), (16, 17), (32, 32), (32, 33), (16, 64), (64, 64))
    }
    first, second = _PLANS
    assert plans == {
        (16, 16): first, (16, 17): second, (32, 32): second, (32, 33): None, (16, 64): second,
        (64, 64): None,
    }  # fmt: skip
    assert FusedShape(5000, 2, Layout(5000).linear).plan() is None


def test_what_shared_memory_does_not_hold_is_left_to_others():
    shape = FusedShape(64, 16, Layout(64).diagonal)
    assert [shape.plan(kib * 1024) for kib in (227, 163, 99)] == [*_PLANS, None]
