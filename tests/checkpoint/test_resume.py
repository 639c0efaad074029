"""A fit that was interrupted and resumed has the bits of one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dgmm
from tests.checkpoint.fits import Cut, cut_at, estimator, rows, same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
FAMILIES = ["full", "diag", "spherical", "tied_full", "tied_diag", "tied_spherical"]
X = rows()


def resumed(place: Any, at: int, x: Any = X, fit: Any = None, **arguments: Any) -> Any:
    """A fit that is cut at an iteration and then done again."""
    kept = {"checkpoint": place, "checkpoint_every": 2}
    with pytest.raises(Cut):
        cut_at(estimator(**arguments, **kept), at).fit(x, **fit or {})
    gm = estimator(**arguments, **kept, resume="must").fit(x, **fit or {})
    assert any(f"resumed from iteration {at // 2 * 2}:" in note for note in gm.record_.notes)
    return gm


@pytest.mark.parametrize("acceleration", [None, "computing", "reading"])
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_is_uninterrupted(family: str, acceleration: str | None, tmp_path: Path) -> None:
    arguments = {"covariance_type": family, "acceleration": acceleration, "n_init": 2}
    whole = estimator(**arguments).fit(X)
    again = resumed(tmp_path, 5, **arguments)
    same_bits(again, whole)
    # The profile is taken again, and iteration 5 was lost.
    assert again.record_.passes == whole.record_.passes + 1


VARIANTS: dict[str, dict[str, Any]] = {
    "halving": {"n_init": 5, "halve_after": 2},
    "stochastic": {"algorithm": "sem", "n_init": 2},
    "classification": {"algorithm": "cem", "n_init": 2},
    "annealed": {"annealing": (4.0, 2.0, 1.5, 1.2, 1.1, 1.0)},
    "float32 kernels": {"dtype": "float32"},
    "fixed": {"fixed": {"weights": True, "means": [0]}},
    "floor": {"covariance_floor": 0.5},
    "priors": {
        "weight_concentration_prior": 2.0,
        "mean_prior": 0.0,
        "mean_precision_prior": 0.5,
        "covariance_prior": 1.0,
        "degrees_of_freedom_prior": 6.0,
    },
    "k-means||": {"init_params": "k-means||"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant(name: str, tmp_path: Path) -> None:
    same_bits(resumed(tmp_path, 5, **VARIANTS[name]), estimator(**VARIANTS[name]).fit(X))


def test_weights_and_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fit = {"sample_weight": rng.random(len(X)), "labels": rng.integers(-1, 4, len(X))}
    same_bits(resumed(tmp_path, 4, fit=fit), estimator().fit(X, **fit))


@pytest.mark.parametrize("at", range(10))
def test_every_iteration(at: int, tmp_path: Path) -> None:
    arguments = {"n_init": 3, "halve_after": 3, "acceleration": "computing"}
    kept = arguments | {"checkpoint": tmp_path, "checkpoint_every": 1}
    if at:
        with pytest.raises(Cut):
            cut_at(estimator(**kept), at).fit(X)
    same_bits(estimator(**kept).fit(X), estimator(**arguments).fit(X))


def test_a_fit_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    whole = estimator(tol=1e-3, max_iter=100, checkpoint=tmp_path).fit(X)
    assert whole.converged_
    again = estimator(tol=1e-3, max_iter=100, checkpoint=tmp_path).fit(X)
    same_bits(again, whole)
    # Its rows are looked at, and no more.
    assert again.record_.passes == whole.record_.passes + 1


def test_more_iterations_than_at_first(tmp_path: Path) -> None:
    estimator(max_iter=4, checkpoint=tmp_path).fit(X)
    more = estimator(max_iter=8, checkpoint=tmp_path, resume="must").fit(X)
    same_bits(more, estimator(max_iter=8).fit(X))


def test_no_seed_is_the_seed_that_was_drawn(tmp_path: Path) -> None:
    first = estimator(random_state=None, max_iter=4, checkpoint=tmp_path).fit(X)
    second = estimator(random_state=None, max_iter=8, checkpoint=tmp_path).fit(X)
    assert second.lower_bounds_[:4] == first.lower_bounds_


def test_another_engine_goes_on(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    whole = estimator(n_init=2).fit(X)
    kept = {"n_init": 2, "checkpoint": tmp_path, "checkpoint_every": 1}
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        on_dask = dgmm.DaskEngine(client)
        with pytest.raises(Cut):
            cut_at(estimator(**kept, engine=dgmm.LocalEngine(1)), 3).fit(X)
        with pytest.raises(Cut):
            cut_at(estimator(**kept, engine=on_dask), 6).fit(X)
        same_bits(estimator(**kept, engine=on_dask, resume="must").fit(X), whole)


def test_a_selection_goes_on(tmp_path: Path) -> None:
    arguments = {"covariance_types": ("full", "tied"), "criterion": "heldout", "holdout": 0.3}
    arguments |= {"n_init": 2, "random_state": 1, "tol": 1e-9, "init_params": "random"}
    whole = dgmm.select_model(X, (2, 3), **arguments, max_iter=8)
    kept = arguments | {"checkpoint": tmp_path, "checkpoint_every": 1}
    dgmm.select_model(X, (2, 3), **kept, max_iter=3)
    again = dgmm.select_model(X, (2, 3), **kept, resume="must", max_iter=8)
    assert again.table.to_dicts() == whole.table.to_dicts()
    same_bits(again.best_, whole.best_)
    # A row of either side in another place.
    for row in range(4):
        other = X.copy()
        other[[row, row + 1]] = other[[row + 1, row]]
        with pytest.raises(dgmm.CheckpointMismatchError, match="all rows was"):
            dgmm.select_model(other, (2, 3), **kept, max_iter=8)
    for other in ({"holdout": 0.2}, {"covariance_types": ("full", "diag")}):
        with pytest.raises(dgmm.CheckpointMismatchError, match=next(iter(other))[:10]):
            dgmm.select_model(X, (2, 3), **kept | other, max_iter=8)


# A start one of whose components no row will have.
FAR = {
    "means_init": [[0.0] * 3, [2.0] * 3, [-2.0] * 3, [500.0] * 3],
    "weights_init": [0.25] * 4,
    "covariances_init": np.stack([np.eye(3)] * 4),
}


@pytest.mark.filterwarnings("ignore::dgmm.EmptyComponentWarning")
@pytest.mark.parametrize("at", [0, 1, 2, 4])
@pytest.mark.parametrize("acceleration", [None, "computing", "reading"])
@pytest.mark.parametrize("choice", ["keep", "reseed", "drop"])
def test_components_that_empty(choice: str, acceleration: Any, at: int, tmp_path: Path) -> None:
    arguments = FAR | {"empty_components": choice, "acceleration": acceleration}
    kept = arguments | {"checkpoint": tmp_path, "checkpoint_every": 1}
    if at:
        with pytest.raises(Cut):
            cut_at(estimator(**kept), at).fit(X)
    else:
        # Ended by max_iter, with what has emptied still to be mended.
        estimator(**kept, max_iter=1).fit(X)
    again = estimator(**kept, resume="must").fit(X)
    same_bits(again, estimator(**arguments).fit(X))
    with pytest.raises(dgmm.CheckpointMismatchError, match="empty_components was"):
        other = "drop" if choice == "keep" else "keep"
        estimator(**kept | {"empty_components": other}, resume="must").fit(X)


@pytest.mark.filterwarnings("ignore::dgmm.EmptyComponentWarning")
def test_a_selection_with_options_goes_on(tmp_path: Path) -> None:
    def select(**more: Any) -> Any:
        options = {"max_iter": 6, "weight_concentration_prior": 1.5} | more
        return dgmm.select_model(
            X, [2, 4], covariance_types=("full", "tied_diag"), random_state=0, n_init=2, tol=1e-12,
            algorithm="sem", fixed={"covariances"}, empty_components="reseed",
            init_params="random_from_data", **options,
        )  # fmt: skip

    whole = select()
    kept = {"checkpoint": tmp_path, "checkpoint_every": 1}
    select(**kept, max_iter=3)
    again = select(**kept, resume="must")
    same_bits(again.best_, whole.best_)
    assert repr(again.table) == repr(whole.table)
    with pytest.raises(dgmm.CheckpointMismatchError, match="weight_concentration_prior was"):
        select(**kept, weight_concentration_prior=2.5)
