"""``partial_fit``: batch after batch, of any source, on both engines, for all families."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import dgmm
from dgmm.covariance import family_names

FAMILIES = family_names()
RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0, 0.0], [5.0, 1.0, -2.0], [-4.0, 4.0, 1.0]])
X = RNG.normal(size=(3000, 3)) @ RNG.normal(size=(3, 3)) + CENTRES[RNG.integers(3, size=3000)]


# Clusters apart, where EM is quick and every start leads to the same mixture.
APART = RNG.normal(size=(3000, 3)) + 2.0 * CENTRES[RNG.integers(3, size=3000)]


def fitted(x: np.ndarray = X, **options: Any) -> dgmm.GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dgmm.GaussianMixture(3, random_state=0, **options).fit(x)


def stepwise(**options: Any) -> dgmm.GaussianMixture:
    return dgmm.GaussianMixture(3, random_state=0, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_passes_with_step_one_are_em(family: str) -> None:
    batch = fitted(covariance_type=family, max_iter=4, tol=0.0)
    steps = stepwise(covariance_type=family, step_size=lambda _: 1.0)
    for _ in range(4):
        steps.partial_fit(X)
    np.testing.assert_allclose(steps.lower_bounds_, batch.lower_bounds_, rtol=1e-12)
    # Tied families take their covariance from the rows' total scatter in fit: another rounding.
    np.testing.assert_allclose(steps.means_, batch.means_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(steps.covariances_, batch.covariances_, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_posterior_is_monitored_where_there_are_priors(family: str) -> None:
    priors = dgmm.suggest_priors(X, 3, family) | {"mean_precision_prior": 200.0}
    options = {"covariance_type": family, "weight_concentration_prior": 50.0, **priors}
    batch = fitted(max_iter=4, tol=0.0, **options)
    steps = stepwise(step_size=lambda _: 1.0, **options)
    for _ in range(4):
        steps.partial_fit(X)
    np.testing.assert_allclose(steps.lower_bounds_, batch.lower_bounds_, rtol=1e-12)
    assert abs(steps.lower_bound_ - batch.record_.log_likelihood) > 1e-3
    np.testing.assert_allclose(steps.means_, batch.means_, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_held_parameters_stay_in_every_batch(family: str) -> None:
    held = {"means": [0, 2], "weights": [1], "covariances": True}
    steps = stepwise(covariance_type=family, means_init=CENTRES, fixed=held)
    steps.partial_fit(X[:1000])
    first = steps.mixture_
    steps.partial_fit(X[1000:])
    np.testing.assert_array_equal(steps.means_[[0, 2]], CENTRES[[0, 2]])
    np.testing.assert_array_equal(steps.covariances_, first.covariances)
    assert steps.weights_[1] == first.weights[1]
    assert np.any(steps.means_[1] != first.means[1])
    assert steps.n_parameters_ == 1 + 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_components": 4}, "n_components is 3, and n_components=4"),
        ({"covariance_type": "diag"}, "covariance_type is 'full', and covariance_type='diag'"),
    ],
)
@pytest.mark.parametrize("begun", ["fit", "partial_fit"])
def test_batches_go_on_with_a_mixture_of_the_same_shape(
    changed: dict[str, Any], message: str, begun: str
) -> None:
    model = fitted() if begun == "fit" else stepwise().partial_fit(X)
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        model.set_params(**changed).partial_fit(X)


@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_the_first_batch_is_an_em_iteration_to_the_bit(family: str) -> None:
    batch = fitted(covariance_type=family, max_iter=1)
    steps = stepwise(covariance_type=family).partial_fit(X)
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_array_equal(getattr(steps, name), getattr(batch, name))
    assert steps.lower_bound_ == batch.lower_bound_


@pytest.mark.parametrize("family", FAMILIES)
def test_many_passes_over_minibatches_come_to_where_em_comes(family: str) -> None:
    batch = fitted(APART, covariance_type=family, tol=1e-9, max_iter=1000)
    steps = stepwise(covariance_type=family)
    rng = np.random.default_rng(1)
    for _ in range(10):
        for part in np.array_split(rng.permutation(APART), 10):
            steps.partial_fit(part)
    assert steps.score(APART) == pytest.approx(batch.score(APART), abs=1e-4)
    order = [np.argsort(model.means_[:, 0]) for model in (steps, batch)]
    np.testing.assert_allclose(steps.means_[order[0]], batch.means_[order[1]], atol=0.02)
    assert steps.n_iter_ == 100
    assert steps.n_samples_seen_ == 30_000
    assert not steps.converged_


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_weight_two_is_two_rows(family: str) -> None:
    start = fitted(covariance_type=family, max_iter=1)
    options = {
        "covariance_type": family, "weights_init": start.weights_, "means_init": start.means_,
        "covariances_init": start.covariances_,
    }  # fmt: skip
    weighted, repeated = stepwise(**options), stepwise(**options)
    for seed, batch in enumerate(np.array_split(X, 3)):
        weight = np.random.default_rng(seed).integers(0, 4, len(batch))
        weighted.partial_fit(np.where(weight[:, None] > 0, batch, np.nan), sample_weight=weight)
        repeated.partial_fit(np.repeat(batch, weight, axis=0))
    np.testing.assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=1e-11)
    for name in ("weights_", "means_", "covariances_"):
        one, other = getattr(weighted, name), getattr(repeated, name)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_whole_passes_with_weights_are_em() -> None:
    weight = np.random.default_rng(5).random(len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = stepwise(max_iter=3, tol=0.0).fit(X, sample_weight=weight)
    steps = stepwise(step_size=lambda _: 1.0)
    for _ in range(3):
        steps.partial_fit(X, sample_weight=weight)
    np.testing.assert_allclose(steps.lower_bounds_, batch.lower_bounds_, rtol=1e-12)
    np.testing.assert_allclose(steps.means_, batch.means_, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("begun", [False, True])
def test_weights_that_leave_no_rows_are_refused(begun: bool) -> None:
    gm = stepwise()
    if begun:
        gm.partial_fit(X)
    with pytest.raises(dgmm.InvalidDataError, match="sample_weight is zero for every row"):
        gm.partial_fit(X, sample_weight=np.zeros(len(X)))
    with pytest.raises(ValueError, match="sample_weight"):
        gm.partial_fit(X, sample_weight=np.full(len(X), -1.0))


def test_far_and_thin_data_keep_their_digits() -> None:
    scale, offset = np.array([1.0, 1e-3, 1e3]), np.array([1e6, -1e4, 1e7])
    start = {"weights_init": np.full(3, 1 / 3), "means_init": CENTRES, "reg_covar": 0.0}
    precisions = np.tile(np.eye(3), (3, 1, 1))
    whole = stepwise(**start, precisions_init=precisions)
    start["means_init"] = CENTRES * scale + offset
    moved = stepwise(**start, precisions_init=precisions / np.outer(scale, scale))
    for part in np.array_split(X, 6):
        whole.partial_fit(part)
        moved.partial_fit(part * scale + offset)
    np.testing.assert_allclose((moved.means_ - offset) / scale, whole.means_, atol=1e-5)
    outer = np.outer(scale, scale)
    np.testing.assert_allclose(moved.covariances_ / outer, whole.covariances_, atol=1e-4)


def test_the_origin_follows_rows_that_drift_away() -> None:
    model = dgmm.GaussianMixture(1, forgetting=0.5, reg_covar=0.0)
    rng = np.random.default_rng(0)
    for centre in np.linspace(0.0, 1e7, 60):
        model.partial_fit(rng.normal(centre, 1.0, size=(500, 2)))
    for _ in range(40):
        model.partial_fit(rng.normal(1e7, 1.0, size=(500, 2)))
    np.testing.assert_allclose(model.means_, 1e7, atol=0.5)
    np.testing.assert_allclose(model.covariances_[0], np.eye(2), atol=0.5)


def test_forgetting_follows_what_changed() -> None:
    old, new = X, X + 3.0
    keeps, follows = stepwise(step_size=1.0), stepwise(step_size=1.0, forgetting=0.2)
    for rows in (old, new):
        for part in np.array_split(rows, 15):
            keeps.partial_fit(part)
            follows.partial_fit(part)
    assert follows.score(new) > keeps.score(new) + 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_sources_and_engines_give_the_same(family: str, tmp_path: Path) -> None:
    parts = np.array_split(X, 3)
    expected = stepwise(covariance_type=family)
    for part in parts:
        expected.partial_fit(part)
    paths = []
    for i, part in enumerate(parts):
        paths.append(str(tmp_path / f"{i}.zarr"))
        zarr.create_array(paths[-1], data=part, chunks=(200, 3))
    kinds: dict[str, list[Any]] = {
        "zarr": paths,
        "dask": [da.from_array(part, chunks=(300, 3)) for part in parts],
    }
    for batches in kinds.values():
        found = stepwise(covariance_type=family)
        for batch in batches:
            found.partial_fit(batch)
        np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.covariances_, expected.covariances_, rtol=1e-8, atol=1e-9)


def test_a_cluster_gives_the_same_bits() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, dashboard_address=None, processes=False
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for family in FAMILIES:
            here = stepwise(covariance_type=family, engine=dgmm.LocalEngine(n_threads=1))
            there = stepwise(covariance_type=family, engine=dgmm.DaskEngine(client))
            for part in np.array_split(X, 3):
                here.partial_fit(part)
                there.partial_fit(part)
            np.testing.assert_array_equal(here.covariances_, there.covariances_)
        # The client stays behind; the retained statistics travel.
        copy = pickle.loads(pickle.dumps(there))
    copy.set_params(engine="local").partial_fit(X)
    here.partial_fit(X)
    np.testing.assert_array_equal(copy.means_, here.means_)


def test_fit_begins_anew_and_what_follows_goes_on_from_it(tmp_path: Path) -> None:
    model = stepwise().partial_fit(X[:500])
    model.fit(X)
    np.testing.assert_array_equal(model.means_, fitted().means_)
    assert not hasattr(model, "n_samples_seen_")
    model.save(tmp_path / "m.safetensors")
    loaded = dgmm.GaussianMixture.load(tmp_path / "m.safetensors")
    for one in (model, loaded):
        before = one.means_
        one.set_params(step_offset=999.0).partial_fit(X[:300])
        # The fit counts as a batch, and a small step leaves it about where it was.
        np.testing.assert_allclose(one.means_, before, atol=0.05)
        assert one.n_samples_seen_ == 300
    np.testing.assert_array_equal(model.means_, loaded.means_)


@pytest.mark.parametrize("scale", ["precisions_init", "covariances_init"])
def test_given_starts_need_no_rows_to_start_from(scale: str) -> None:
    given = {"weights_init": np.full(3, 1 / 3), "means_init": CENTRES}
    given[scale] = np.tile(np.eye(3), (3, 1, 1))
    model = stepwise(**given)
    for part in np.array_split(X[:40], 40):
        model.partial_fit(part)
    assert model.n_iter_ == 40
    with pytest.raises(dgmm.InvalidDataError, match=r"n_samples >= n_components.*first batch"):
        stepwise(means_init=CENTRES).partial_fit(X[:2])


def test_single_precision_rows_and_products() -> None:
    narrow, wide = stepwise(), stepwise()
    for part in np.array_split(X, 5):
        narrow.partial_fit(part.astype(np.float32))
        wide.partial_fit(part)
    assert narrow.means_.dtype == np.float32
    np.testing.assert_allclose(narrow.means_, wide.means_, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.5}, "step_size"),
        ({"step_size": 1.5}, "step_size"),
        ({"step_size": "fast"}, "step_size"),
        ({"step_size": lambda _: 2.0}, r"step_size\(1\) returned 2.0"),
        ({"step_size": lambda _: np.nan}, r"step_size\(1\) returned nan"),
        ({"step_size": lambda _: "a"}, r"step_size\(1\) returned 'a'"),
        ({"step_size": lambda _: None}, r"step_size\(1\) returned None"),
        ({"step_offset": -1.0}, "step_offset"),
        ({"step_offset": np.inf}, "step_offset"),
        ({"forgetting": 1.5}, "forgetting"),
        ({"forgetting": np.nan}, "forgetting"),
        ({"checkpoint": "anywhere"}, "partial_fit writes no checkpoints"),
    ],
)
def test_steps_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        stepwise(**options).partial_fit(X).partial_fit(X)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:, :2], "2 features.*expecting 3"),
        (X[:0], "0 sample"),
        (np.where(np.arange(3) == 1, np.nan, X[:9]), "row 0, feature 1 is nan"),
    ],
)
def test_a_batch_that_fails_leaves_everything_as_it_was(rows: np.ndarray, message: str) -> None:
    model = stepwise().partial_fit(X[:1000])
    twin = pickle.loads(pickle.dumps(model))
    with pytest.raises(dgmm.InvalidDataError, match=message):
        model.partial_fit(rows)
    for one in (model, twin):
        one.partial_fit(X[1000:])
    np.testing.assert_array_equal(model.covariances_, twin.covariances_)
    assert model.n_samples_seen_ == twin.n_samples_seen_ == 3000


def test_a_component_that_collapses_is_an_error_and_no_step() -> None:
    model = dgmm.GaussianMixture(1, reg_covar=0.0, step_size=lambda _: 1.0).partial_fit(X)
    before = model.means_
    with pytest.raises(dgmm.SingularMixtureError, match=r"ill-defined.*batch 2"):
        model.partial_fit(X[:1])
    np.testing.assert_array_equal(model.means_, before)
