"""Classification, stochastic and annealed EM, and labels for some rows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm.covariance import family_names
from dgmm.errors import InvalidDataError, InvalidParameterError

RNG = np.random.default_rng(3)
CENTRES = np.array([[-3.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
TRUE = RNG.integers(3, size=1500)
X = RNG.normal(size=(1500, 2)) + CENTRES[TRUE]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Best performing")
        yield


def fitted(algorithm="em", x=X, labels=None, sample_weight=None, **options):
    options = {"n_components": 3, "random_state": 0, **options}
    gm = dgmm.GaussianMixture(algorithm=algorithm, **options)
    return gm.fit(x, labels=labels, sample_weight=sample_weight)


@pytest.mark.parametrize("family", family_names())
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("algorithm", ["em", "cem"])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_monitored_objective_never_falls(family, weighted, algorithm, labelled):
    weight = RNG.exponential(size=1500) if weighted else None
    labels = np.where(np.arange(1500) % 5, -1, TRUE) if labelled else None
    gm = fitted(
        algorithm, labels=labels, sample_weight=weight, covariance_type=family,
        init_params="random_from_data", reg_covar=0.0, tol=0.0, max_iter=25,
    )  # fmt: skip
    assert np.diff(gm.lower_bounds_).min() > -1e-12


@pytest.mark.parametrize("family", family_names())
def test_cem_ends_where_its_classes_are_their_own_fit(family):
    gm = fitted("cem", covariance_type=family, tol=0.0, max_iter=60, reg_covar=0.0)
    labels = gm.predict(X)
    assert_allclose(gm.weights_, np.bincount(labels) / 1500, rtol=1e-12)
    assert_allclose(gm.means_, [X[labels == k].mean(axis=0) for k in range(3)], rtol=1e-10)
    joint = gm.score_samples(X) + np.log(gm.predict_proba(X).max(axis=1))
    assert gm.lower_bound_ == pytest.approx(joint.mean(), rel=1e-12)
    assert fitted("cem", covariance_type=family).converged_


@pytest.mark.parametrize("family", family_names())
def test_sem_returns_the_likeliest_mixture_that_it_saw(family):
    gm = fitted("sem", covariance_type=family, max_iter=15)
    assert (gm.n_iter_, gm.converged_) == (15, False)
    assert gm.lower_bound_ == max(gm.lower_bounds_)
    assert gm.lower_bound_ == pytest.approx(gm.score(X), rel=1e-12)
    assert gm.lower_bound_ > fitted(covariance_type=family, tol=1e-8).lower_bound_ - 0.01


COLLAPSING = {"n_components": 10, "reg_covar": 0.0, "max_iter": 200}


@pytest.mark.parametrize("annealing", [None, [2.0, 1.5]])
def test_sem_that_collapses_ends_at_the_likeliest_mixture_that_it_saw(annealing):
    x = np.random.default_rng(1).normal(size=(300, 4))
    gm = fitted("sem", x=x, annealing=annealing, **COLLAPSING)
    (restart,) = gm.record_.restarts
    assert (restart.status, restart.was_given_up) == ("collapsed", False)
    assert gm.n_iter_ < 200
    assert not gm.converged_
    assert gm.lower_bound_ == max(gm.lower_bounds_) == gm.record_.log_likelihood
    assert gm.lower_bound_ == pytest.approx(gm.score(x), rel=1e-9)
    assert any(
        "collapsed at iteration" in note and "likeliest" in note for note in gm.record_.notes
    )


def test_restarts_of_sem_that_collapse_compete_with_the_others():
    x = np.random.default_rng(1).normal(size=(300, 4))
    gm = fitted("sem", x=x, n_init=3, **COLLAPSING)
    assert gm.lower_bound_ == max(max(one.lower_bounds) for one in gm.record_.restarts)
    found = dgmm.select_model(x, [10], algorithm="sem", random_state=0, reg_covar=0, max_iter=200)
    alone = fitted("sem", x=x, **COLLAPSING)
    assert_array_equal(found.best_.means_, alone.means_)


@pytest.mark.parametrize("choice", ["keep", "reseed", "drop"])
def test_sem_that_collapses_goes_with_every_choice_of_what_becomes_of_empty_components(choice):
    x = np.random.default_rng(1).normal(size=(300, 4))
    gm = fitted("sem", x=x, empty_components=choice, **COLLAPSING)
    assert gm.lower_bound_ == pytest.approx(gm.score(x), rel=1e-9)


def test_sem_that_collapses_is_gone_on_with_to_the_same_bits(tmp_path):
    x = np.random.default_rng(1).normal(size=(300, 4))
    whole = fitted("sem", x=x, n_init=2, **COLLAPSING)
    kept = {**COLLAPSING, "n_init": 2, "checkpoint": tmp_path / "fit"}
    longest = max(one.n_iter for one in whole.record_.restarts)
    fitted("sem", x=x, **{**kept, "max_iter": longest - 1})
    resumed = fitted("sem", x=x, **kept)
    assert_array_equal(resumed.means_, whole.means_)
    assert resumed.record_.restarts == whole.record_.restarts


def test_sem_does_not_warn_of_convergence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted("sem", max_iter=2)


def test_sem_draws_depend_on_the_seed_and_the_row_alone():
    given = {"means_init": CENTRES, "weights_init": np.full(3, 1 / 3), "max_iter": 6}
    given["precisions_init"] = np.array([np.eye(2)] * 3)
    one = fitted("sem", **given)
    blocks = dgmm.open_dataset(X, block_bytes=1600)
    many = fitted("sem", x=blocks, engine=dgmm.LocalEngine(3), **given)
    assert_allclose(many.lower_bounds_, one.lower_bounds_, rtol=1e-12)
    assert_allclose(many.means_, one.means_, rtol=1e-11)
    other = fitted("sem", **{**given, "random_state": 1})
    assert np.abs(np.subtract(other.lower_bounds_, one.lower_bounds_)[1:]).min() > 1e-9


def test_restarts_of_sem_draw_by_themselves():
    given = {"means_init": CENTRES, "weights_init": np.full(3, 1 / 3), "max_iter": 3}
    given["precisions_init"] = np.array([np.eye(2)] * 3)
    gm = fitted("sem", n_init=2, **given)
    first, second = (restart.lower_bounds for restart in gm.record_.restarts)
    assert first[0] == pytest.approx(second[0], rel=1e-13)
    assert abs(first[-1] - second[-1]) > 1e-9


@pytest.mark.parametrize("family", family_names())
def test_annealing_finds_what_a_bad_start_misses(family):
    centres = np.array([[-6.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [6.0, 0.0]])
    bad = {"means_init": [[-4, 0], [1.8, 0], [6, 0.2], [6, -0.2]], "weights_init": np.full(4, 0.25)}
    common = {**bad, "n_components": 4, "covariance_type": family, "max_iter": 400, "tol": 1e-6}
    gains = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = 0.7 * rng.normal(size=(400, 2)) + centres[rng.integers(4, size=400)]
        annealed = fitted(x=x, annealing=np.geomspace(30, 1, 150), **common)
        gains.append(annealed.lower_bound_ - fitted(x=x, **common).lower_bound_)
    assert np.mean(gains) > 0.02


def test_an_annealed_fit_does_not_stop_before_temperature_one():
    gm = fitted(annealing=[1.5] * 20, tol=10.0)
    assert gm.n_iter_ == 22


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "vb"}, "algorithm='vb'.*em, cem, sem"),
        ({"annealing": [1.0, 2.0]}, "annealing=.*decreasing"),
        ({"annealing": [2.0, 0.5]}, "at least 1"),
        ({"annealing": 4.0}, "annealing=4.0.*sequence"),
        ({"annealing": [np.nan]}, "finite"),
        ({"annealing": "42"}, "annealing='42'.*sequence"),
        ({"annealing": b"42"}, "annealing=b'42'.*sequence"),
        ({"annealing": [2.0], "algorithm": "cem"}, "without effect on algorithm='cem'"),
        ({"annealing": [2.0] * 5, "max_iter": 5}, "5 temperatures and max_iter=5"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InvalidParameterError, match=message):
        fitted(**options)


# ------------------------------------------------------------------------------------------- labels


def known(share, shift=0):
    labels = np.full(1500, -1)
    rows = np.arange(int(1500 * share))
    labels[rows] = (TRUE[rows] + shift) % 3
    return labels


@pytest.mark.parametrize("family", family_names())
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_components_have_the_numbers_of_the_labels(family, shift):
    gm = fitted(labels=known(0.02, shift), covariance_type=family)
    assert np.mean(gm.predict(X) == (TRUE + shift) % 3) > 0.98


@pytest.mark.parametrize("family", family_names())
def test_with_all_labels_the_fit_is_that_of_the_classes(family):
    gm = fitted(labels=TRUE, covariance_type=family, tol=0.0, max_iter=3, reg_covar=0.0)
    assert_allclose(gm.weights_, np.bincount(TRUE) / 1500, rtol=1e-12)
    assert_allclose(gm.means_, [X[k == TRUE].mean(axis=0) for k in range(3)], rtol=1e-10)
    joint = gm.score_samples(X) + np.log(gm.predict_proba(X))[np.arange(1500), TRUE]
    assert gm.lower_bound_ == pytest.approx(joint.mean(), rel=1e-12)


def test_components_without_known_rows_are_found():
    labels = known(0.05)
    labels[labels == 1] = -1
    gm = fitted(labels=labels)
    assert np.mean(gm.predict(X) == TRUE) > 0.98


def test_few_known_rows_are_not_missed_by_the_sample(monkeypatch):
    monkeypatch.setattr("dgmm.initialization._SAMPLE_ROWS", 400)
    labels = np.full(1500, -1)
    rows = [int(np.flatnonzero(k == TRUE)[-1]) for k in range(3)]
    labels[rows] = [2, 0, 1]
    gm = fitted(labels=labels)
    assert np.mean(gm.predict(X) == (TRUE + 2) % 3) > 0.98


def test_rows_of_weight_zero_need_not_have_a_label_that_counts():
    labels, weight = known(0.1), np.ones(1500)
    labels[:20], weight[:20] = (TRUE[:20] + 1) % 3, 0.0
    gm = fitted(labels=labels, sample_weight=weight)
    assert np.mean(gm.predict(X) == TRUE) > 0.98


@pytest.mark.parametrize(
    ("value", "message"), [(3, "row 7 has 3.*3 components"), (-2, "row 7 .*-2"), (0.5, "row 7")]
)
def test_labels_of_no_component_are_refused(value, message):
    labels = np.full(1500, -1.0)
    labels[7] = value
    with pytest.raises(InvalidDataError, match=message):
        fitted(labels=labels)


def test_y_is_ignored():
    assert_array_equal(dgmm.GaussianMixture(3, random_state=0).fit(X, TRUE).means_, fitted().means_)


# -------------------------------------------------------------------------- what else holds


def test_annealing_does_not_move_held_means():
    held = np.array([[-5.0, 0.0], [5.0, 0.0]])
    x = np.random.default_rng(0).normal(size=(400, 2)) + 8.0 * (np.arange(400) % 2)[:, None]
    gm = dgmm.GaussianMixture(
        2, means_init=held, fixed={"means": [0]}, annealing=[4.0, 2.0], random_state=0
    ).fit(x)
    assert_array_equal(gm.means_[0], held[0])
    assert not np.array_equal(gm.means_[1], held[1])


@pytest.mark.parametrize("options", [{"algorithm": "cem"}, {"annealing": [2.0]}])
def test_variants_are_refused_where_there_is_only_em(options):
    x = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(InvalidParameterError, match="not supported by partial_fit"):
        dgmm.GaussianMixture(2, **options).partial_fit(x)


def test_labels_are_refused_where_they_mean_nothing():
    dataset = dgmm.open_dataset(np.random.default_rng(0).normal(size=(40, 2))).with_labels(
        np.zeros(40)
    )
    with pytest.raises(InvalidParameterError, match="labels"):
        dgmm.GaussianMixture(2).partial_fit(dataset)
    with pytest.raises(InvalidParameterError, match=r"'drop' renumbers the components"):
        dgmm.GaussianMixture(2, empty_components="drop").fit(dataset)
    with pytest.raises(InvalidParameterError, match=r"'drop' renumbers the components"):
        dgmm.select_model(dataset, [1, 2], empty_components="drop")
