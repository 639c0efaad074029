"""Components that are left without rows: kept, reseeded, dropped, or a reason to give up."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm.acceleration import Accelerator
from dgmm.covariance import family_names, family_of
from dgmm.em import Chain, best_chain, iterate
from dgmm.emptying import Emptying
from dgmm.errors import EmptyComponentError, EmptyComponentWarning, InvalidParameterError
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from tests.numerics.problems import context_of

RNG = np.random.default_rng(0)
CENTRES = np.array([[-9.0, 0.0], [9.0, 0.0], [0.0, 12.0]])
X = (RNG.normal(size=(900, 2)) + CENTRES[RNG.integers(3, size=900)]).round(6)
FAMILIES = pytest.mark.parametrize("family", family_names())
ACCELERATIONS = pytest.mark.parametrize("acceleration", [None, "computing", "reading"])


def start_of(family: str, means: np.ndarray) -> dict[str, Any]:
    shape = family_of(family).shape
    unit = shape.project(np.eye(2)) / shape.divisor(2)
    stored = unit if family_of(family).is_tied else np.stack([unit] * len(means))
    weights = np.full(len(means), 1 / len(means))
    return {"weights_init": weights, "means_init": means, "covariances_init": stored}


def far(family: str, *, lost: int = 1) -> dict[str, Any]:
    """A start whose component ``lost`` is so far out that no row will have it."""
    return start_of(family, np.insert(CENTRES, lost, [700.0, 700.0], axis=0))


def model(family: str = "full", **options: Any) -> dgmm.GaussianMixture:
    defaults = {"tol": 0.0, "max_iter": 15, "random_state": 0, "reg_covar": 1e-6}
    start = options.pop("start", None) or far(family)
    k = len(start["means_init"])
    return dgmm.GaussianMixture(k, covariance_type=family, **start, **defaults | options)


def fitted(*args: Any, x: np.ndarray = X, fit: Any = None, **options: Any) -> dgmm.GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many stop at max_iter
        return model(*args, **options).fit(x, **fit or {})


@FAMILIES
@ACCELERATIONS
def test_without_it_the_others_are_what_they_would_be_alone(family, acceleration) -> None:
    found = fitted(family, empty_components="drop", acceleration=acceleration)
    alone = fitted(family, start=start_of(family, CENTRES), acceleration=acceleration)
    # A penalty on each covariance goes by its share of the rows: the same in the end.
    rtol = 1e-9 if acceleration is None else 1e-4
    assert found.means_.shape == (3, 2)
    assert found.covariances_.shape == alone.covariances_.shape
    assert_allclose(found.weights_, alone.weights_, rtol=rtol)
    assert_allclose(found.means_, alone.means_, rtol=rtol, atol=rtol)
    assert found.n_parameters_ == alone.n_parameters_
    assert found.bic(X) == pytest.approx(alone.bic(X), rel=rtol)
    assert found.lower_bound_ <= found.score(X) + 1e-12
    (note,) = [one for one in found.record_.notes if "without rows" in one]
    assert "component 1 was dropped after iteration 1" in note


@FAMILIES
@ACCELERATIONS
def test_reseeded_it_finds_the_rows_that_are_explained_worst(family, acceleration) -> None:
    """Two clusters, a far one that nobody starts at, and a component out of reach."""
    means = np.vstack([CENTRES[:2], [[700.0, 700.0]]])
    found = fitted(
        family,
        start=start_of(family, means),
        empty_components="reseed",
        acceleration=acceleration,
        max_iter=60,
    )
    truth = fitted(family, start=start_of(family, CENTRES), acceleration=acceleration, max_iter=60)
    assert any("component 2 was given a new place" in note for note in found.record_.notes)
    assert found.lower_bound_ == pytest.approx(truth.lower_bound_, abs=1e-4)
    order = np.argsort(found.means_[:, 0])
    assert_allclose(found.means_[order], CENTRES[[0, 2, 1]], atol=0.3)
    assert found.weights_.min() > 0.25
    assert found.score(X) >= found.lower_bound_ - 1e-12


@FAMILIES
@ACCELERATIONS
def test_kept_it_stays_where_it_was(family, acceleration) -> None:
    found = fitted(family, acceleration=acceleration)
    assert_array_equal(found.means_[1], [700.0, 700.0])
    assert found.weights_[1] == 0.0
    assert any("components 1 were without rows" in note for note in found.record_.notes)


@FAMILIES
def test_its_restart_is_given_up(family) -> None:
    with pytest.raises(EmptyComponentError, match="component 1 was without rows at iteration 1"):
        fitted(family, empty_components="raise")
    assert issubclass(EmptyComponentError, dgmm.DgmmError)
    # Where there is nothing to raise for, nothing is raised.
    alone = start_of(family, CENTRES)
    same = fitted(family, start=alone, empty_components="raise")
    assert_array_equal(same.means_, fitted(family, start=alone).means_)


@pytest.mark.parametrize("accelerator", [None, Accelerator(float(len(X)))], ids=["em", "faster"])
def test_another_restart_goes_on(accelerator) -> None:
    starts = [far("full"), start_of("full", CENTRES)]
    chains = [Chain(Mixture(*one.values(), "full"), Level.FLOAT64) for one in starts]
    options = MaximizationOptions(reg_covar=1e-6)
    list(
        iterate(
            context_of(X), chains, tol=1e-3, options=options, max_iter=50,
            emptying=Emptying("raise"), accelerator=accelerator,
        )
    )  # fmt: skip
    assert [chain.status for chain in chains] == ["retired", "converged"]
    assert best_chain(chains) is chains[1]
    assert Chain.from_state(chains[0].to_state()).emptied == chains[0].emptied


@pytest.mark.parametrize("choice", ["keep", "reseed", "drop"])
def test_it_is_warned_of(choice) -> None:
    words = {"keep": "stayed as it was", "reseed": "given a new place", "drop": "dropped"}
    with pytest.warns(EmptyComponentWarning, match=words[choice]):
        model(empty_components=choice, tol=1e-3, max_iter=300).fit(X)


@pytest.mark.parametrize("options", [{"algorithm": "cem"}, {"algorithm": "sem"},
                                     {"annealing": [4.0, 2.0, 1.0]}], ids=str)  # fmt: skip
@pytest.mark.parametrize("choice", ["reseed", "drop"])
def test_every_variant_of_em_mends(choice, options) -> None:
    found = fitted(empty_components=choice, **options)
    assert found.weights_.min() > 0.0
    assert len(found.weights_) == (3 if choice == "drop" else 4)
    assert np.all(np.isfinite(found.lower_bounds_))


@pytest.mark.parametrize("choice", ["reseed", "drop"])
def test_it_may_empty_in_the_last_iteration(choice) -> None:
    """What no pass has seen is no result: it is dropped, but not reseeded."""
    found = fitted(empty_components=choice, max_iter=1)
    if choice == "drop":
        assert len(found.weights_) == 3
    else:
        assert_array_equal(found.means_[1], [700.0, 700.0])
    assert found.lower_bound_ <= found.score(X) + 1e-12


def test_several_leave_and_the_rest_is_renumbered() -> None:
    means = np.vstack([[[700.0, 0.0]], CENTRES[:1], [[0.0, 900.0]], CENTRES[1:]])
    found = fitted(start=start_of("full", means), empty_components="drop")
    assert_allclose(found.means_, CENTRES, atol=0.3)
    dropped = [one for one in found.record_.notes if "dropped" in one]
    assert [f"component {k} " in note for k, note in zip((0, 2), dropped, strict=True)] == [
        True
    ] * 2
    # Reseeded, each has rows of its own to begin with.
    again = fitted(start=start_of("full", means), empty_components="reseed", max_iter=5)
    assert again.weights_.min() > 0.0


@FAMILIES
def test_priors_of_the_components_that_are_left(family) -> None:
    """Those of one component each go with it."""
    tied = family_of(family).is_tied
    shape = family_of(family).covariances_shape(4, 2)
    scale = np.broadcast_to(np.eye(2) if len(shape) > 1 and shape[-2:] == (2, 2) else 1.0, shape)
    priors = {
        "weight_concentration_prior": np.array([1.0, 1.0, 2.0, 3.0]),
        "mean_prior": np.insert(CENTRES, 1, [0.0, 0.0], axis=0),
        "mean_precision_prior": np.array([5.0, 0.0, 6.0, 7.0]),
        "covariance_prior": scale if tied else (scale.T * np.arange(1.0, 5.0)).T,
        "degrees_of_freedom_prior": 5.0 if tied else np.array([4.0, 9.0, 5.0, 6.0]),
    }  # fmt: skip

    def without(name: str, value: Any) -> Any:
        per_component = np.ndim(value) > 0 and not (tied and name.startswith(("cov", "deg")))
        return np.delete(value, 1, axis=0) if per_component else value

    found = fitted(family, empty_components="drop", **priors)
    own = {name: without(name, value) for name, value in priors.items()}
    alone = fitted(family, start=start_of(family, CENTRES), **own)
    assert_allclose(found.means_, alone.means_, rtol=1e-9, atol=1e-9)
    assert_allclose(found.covariances_, alone.covariances_, rtol=1e-9, atol=1e-9)
    assert found.lower_bound_ == pytest.approx(alone.lower_bound_, rel=1e-9)


def test_weights_below_one_take_rows_from_every_component(tmp_path) -> None:
    """π ∝ n + α − 1, known where every row counts for one component."""
    found = fitted(algorithm="cem", empty_components="drop", weight_concentration_prior=0.25)
    counts = np.bincount(found.predict(X)) - 0.75
    assert_allclose(found.weights_, counts / counts.sum(), rtol=1e-9)
    # A component of a fifth of a row leaves, which at α = 1 stays.
    weights = np.r_[np.full(len(X), 1.0), 0.2]
    x = np.vstack([X, [[700.0, 700.0]]])
    fit = {"sample_weight": weights}
    assert len(fitted(x=x, fit=fit, covariance_floor=0.1).weights_) == 4
    less = {"empty_components": "drop", "weight_concentration_prior": 0.5, "covariance_floor": 0.1}
    assert len(fitted(x=x, fit=fit, **less).weights_) == 3
    assert len(fitted(x=x, fit=fit, **less | {"weight_concentration_prior": 0.9}).weights_) == 4
    bounds = fitted(**less).lower_bounds_[2:]
    assert np.all(np.diff(bounds) >= -1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"empty_components": "ignore"}, "one of keep, reseed, drop, raise"),
        ({"empty_components": None}, "empty_components=None"),
        ({"empty_components": "drop", "fixed": {"means": [0]}}, "contradict each other"),
        ({"empty_components": "reseed", "fixed": {"means"}}, "contradict each other"),
        ({"weight_concentration_prior": 0.5}, "empty_components='drop'"),
        ({"weight_concentration_prior": 0.5, "empty_components": "reseed"}, "at least 1"),
        ({"weight_concentration_prior": 0.0, "empty_components": "drop"}, "above 0"),
        ({"weight_concentration_prior": 0.5, "empty_components": "drop", "acceleration": "auto"},
         "acceleration=None"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(options, message) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        model(**options).fit(X)


def test_a_prior_that_takes_all_rows_is_refused() -> None:
    options = {"empty_components": "drop", "weight_concentration_prior": 0.1}
    with pytest.raises(InvalidParameterError, match=r"takes 3\.6 rows .* count for 0\.9 in all"):
        model(**options).fit(X, sample_weight=np.full(len(X), 1e-3))


def test_held_values_stay_and_a_held_mean_is_not_moved() -> None:
    fixed = {"covariances": True, "weights": [1], "means": [0]}
    found = fitted(empty_components="reseed", fixed=fixed)
    start = far("full")
    assert_array_equal(found.covariances_, start["covariances_init"])
    assert found.weights_[1] == 0.25
    assert found.means_[1].max() < 100.0
    kept = fitted(empty_components="reseed", fixed={"means": [1]})
    assert_array_equal(kept.means_[1], [700.0, 700.0])


def test_a_component_is_reseeded_three_times_at_most() -> None:
    """More components than there are places: the loop comes to an end."""
    x = np.repeat([[0.0, 0.0], [4.0, 4.0]], 50, axis=0)
    found = dgmm.GaussianMixture(
        3, algorithm="cem", means_init=[[0.0, 0.0], [4.0, 4.0], [300.0, 300.0]],
        weights_init=np.full(3, 1 / 3), covariances_init=np.stack([np.eye(2)] * 3),
        covariance_floor=0.5, empty_components="reseed", max_iter=60, random_state=0,
    )  # fmt: skip
    with pytest.warns(EmptyComponentWarning):
        found.fit(x)
    times = [note for note in found.record_.notes if "given a new place" in note]
    assert 1 <= len(times) <= 9
    assert found.converged_


# --------------------------------------------------------------------------------- going on


def test_a_fit_with_fewer_components_can_be_gone_on_with(tmp_path) -> None:
    first = fitted(empty_components="drop", max_iter=4, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first.fit(X)
    assert first.means_.shape == (3, 2)
    with pytest.raises(InvalidParameterError, match="dropped components"):
        first.set_params(empty_components="keep").fit(X)
    first.set_params(empty_components="drop").save(tmp_path / "m")
    back = dgmm.GaussianMixture.load(tmp_path / "m")
    assert (back.n_components, back.empty_components) == (3, "drop")
    assert_array_equal(back.means_, first.means_)


def test_a_model_file_has_the_priors_of_what_is_left(tmp_path) -> None:
    alpha = np.array([1.5, 2.0, 2.5, 3.0])
    found = fitted(empty_components="drop", weight_concentration_prior=alpha, warm_start=True)
    found.save(tmp_path / "m")
    back = dgmm.GaussianMixture.load(tmp_path / "m")
    assert_array_equal(back.weight_concentration_prior, np.delete(alpha, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back.fit(X)
    assert back.means_.shape == (3, 2)


def test_batches_go_on_from_a_fit_with_fewer_components() -> None:
    alpha = np.array([1.5, 2.0, 2.5, 3.0])
    found = fitted(empty_components="drop", weight_concentration_prior=alpha)
    before = found.means_
    found.partial_fit(X)
    assert found.means_.shape == (3, 2)
    assert_allclose(found.means_, before, atol=0.01)
    # A second batch knows what was dropped, too.
    assert found.partial_fit(X).means_.shape == (3, 2)


@FAMILIES
def test_batches_drop_or_raise(family) -> None:
    def batches(choice: str) -> dgmm.GaussianMixture:
        return model(family, empty_components=choice, forgetting=1.0)

    found = batches("drop")
    with pytest.warns(EmptyComponentWarning, match="component 1 was left without rows and dropped"):
        found.partial_fit(X)
    assert found.means_.shape == (3, 2)
    found.partial_fit(X)
    alone = model(family, start=start_of(family, CENTRES), forgetting=1.0)
    alone.partial_fit(X).partial_fit(X)
    assert_allclose(found.means_, alone.means_, rtol=1e-9, atol=1e-9)
    assert_allclose(found.covariances_, alone.covariances_, rtol=1e-9, atol=1e-9)
    refused = batches("raise")
    with pytest.raises(EmptyComponentError, match=r"component 1 .* batch 1"):
        refused.partial_fit(X)
    assert not refused.fitted_
    with pytest.raises(InvalidParameterError, match="'reseed' is not supported by partial_fit"):
        batches("reseed").partial_fit(X)


# ----------------------------------------------------------------------------------- engines


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=False
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@FAMILIES
@pytest.mark.parametrize("choice", ["keep", "reseed", "drop"])
def test_a_cluster_gives_the_same_bits(client, family, choice) -> None:
    options = {"empty_components": choice, "max_iter": 5, "device": "cpu"}
    near = fitted(family, **options)
    there = fitted(family, engine=dgmm.DaskEngine(client), **options)
    for name in ("weights", "means", "covariances"):
        assert_array_equal(getattr(near.mixture_, name), getattr(there.mixture_, name))
    assert near.record_.notes == there.record_.notes


@FAMILIES
def test_a_cluster_gives_a_restart_up_for_the_same_reason(client, family) -> None:
    messages = []
    for engine in (dgmm.LocalEngine(1), dgmm.DaskEngine(client)):
        with pytest.raises(EmptyComponentError, match="component 1 was without rows") as caught:
            fitted(family, empty_components="raise", engine=engine, device="cpu")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
