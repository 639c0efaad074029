"""Bars and points of responsibilities, against Bayes' rule by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import dgmm
from dgmm.plotting import plot_responsibilities
from tests.values.cases import FAMILIES, joint_density, mixture_of


def posterior_of(mixture, x) -> np.ndarray:
    joint = joint_density(mixture, x)
    return joint / joint.sum(axis=1, keepdims=True)


def heights(axes) -> np.ndarray:
    """What each component has of every bar: shape (n_rows, n_components)."""
    data = [patch.get_data() for patch in axes.patches]
    return np.stack([one.values - one.baseline for one in data], axis=1)


@pytest.fixture(params=FAMILIES)
def mixture(request: pytest.FixtureRequest) -> dgmm.Mixture:
    return mixture_of(request.param)


def test_bars_are_the_posterior_in_groups_of_components(mixture) -> None:
    x = mixture.sample(300, random_state=1)[0]
    found = heights(plot_responsibilities(mixture, x))
    expected = posterior_of(mixture, x)
    assert_allclose(found.sum(axis=1), 1.0)
    assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0), atol=1e-9)
    # Rows stay whole: the row that is the surest of each component is a bar as it is.
    for k in range(mixture.n_components):
        mine = found[found.argmax(axis=1) == k]
        theirs = expected[expected.argmax(axis=1) == k]
        assert np.all(np.diff(mine.max(axis=1)) <= 1e-12)
        order = np.argsort(-theirs.max(axis=1), kind="stable")
        assert_allclose(mine, theirs[order], atol=1e-9)
    assert np.all(np.diff(found.argmax(axis=1)) >= 0)


def test_points_are_rows_in_the_colours_of_their_components(mixture) -> None:
    x = mixture.sample(300, random_state=1)[0]
    bars = plot_responsibilities(mixture, x)
    colours = np.array([patch.get_facecolor() for patch in bars.patches])
    (points,) = plot_responsibilities(mixture, x, kind="points", features=(2, 0)).collections
    assert_allclose(points.get_offsets(), x[:, [2, 0]])
    assert_allclose(points.get_facecolors(), posterior_of(mixture, x) @ colours, atol=1e-9)


def test_one_feature_has_bars() -> None:
    mixture = dgmm.Mixture([0.5, 0.5], [[0.0], [3.0]], [1.0], "tied_diag")
    x = np.array([[1.5], [-4.0], [7.0]])
    found = heights(plot_responsibilities(mixture, x))
    assert_allclose(found, [[1, 0], [0.5, 0.5], [0, 1]], atol=1e-4)


# ----------------------------------------------------------------------------- the sample of rows


def shown(model, source, **options) -> np.ndarray:
    axes = plot_responsibilities(model, source, kind="points", features=(0, 2), **options)
    return np.asarray(axes.collections[0].get_offsets())


def test_rows_are_drawn_without_replacement_by_a_seed(model, rows, source) -> None:
    found = shown(model, source, subsample=150)
    # The rows of this problem differ in every value, so a value tells the row.
    positions = np.searchsorted(np.sort(rows[:, 0]), found[:, 0])
    assert_allclose(np.sort(rows[:, 0])[positions], found[:, 0], rtol=0)
    assert len(set(positions)) == 150
    assert np.array_equal(found, shown(model, rows, subsample=150))
    assert not np.array_equal(found, shown(model, source, subsample=150, random_state=1))


def test_all_rows_where_there_are_few(model, rows, source) -> None:
    assert np.array_equal(shown(model, source, subsample=5000), rows[:, [0, 2]])


def test_a_row_without_weight_is_not_shown(model, rows, source) -> None:
    middle = np.median(rows[:, 0])
    weight = np.where(rows[:, 0] > middle, 1.0, 0.0)
    found = shown(model, source, subsample=300, sample_weight=weight)
    assert len(found) == 300
    assert found[:, 0].min() > middle


def test_a_cluster_shows_the_same_rows(model, client, source) -> None:
    there = dgmm.GaussianMixture().load_state_dict(model.state_dict())
    there.set_params(engine=dgmm.DaskEngine(client))
    found = shown(there, source, subsample=150)
    assert np.array_equal(found, shown(model, source, subsample=150))
    ours, theirs = (
        one.plot_components(source, features=(1, 2)).collections[0].get_array()
        for one in (model, there)
    )
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("function", ["plot_components", "plot_responsibilities"])
def test_data_larger_than_memory_is_read_once_and_never_held(function, tmp_path) -> None:
    import tracemalloc

    x = np.random.default_rng(0).normal(size=(600_000, 16)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    engine, sessions = dgmm.LocalEngine(1), []
    opened = engine.session
    engine.session = lambda *args, **options: (
        sessions.append(opened(*args, **options)) or sessions[-1]
    )
    model = dgmm.GaussianMixture.from_parameters(
        [1.0], np.zeros((1, 16)), 1.0, covariance_type="tied_spherical",
        engine=engine, memory_limit="36MiB",
    )  # fmt: skip
    nbytes, dataset = x.nbytes, dgmm.open_dataset(tmp_path / "x.npy", block_bytes="512KiB")
    del x
    options = {"features": (3, 5)} if function == "plot_components" else {}
    tracemalloc.start()
    try:
        getattr(model, function)(dataset, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (session,) = sessions
    assert session.counters.block_reads == len(dataset.blocks) > 10
    assert session.counters.bytes_read == nbytes
    assert peak < nbytes / 2
