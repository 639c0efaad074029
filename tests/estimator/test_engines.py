"""What a fit can be asked for gives the same bits on threads and on workers, for every family."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dgmm
from dgmm.covariance import family_names

FAMILIES = pytest.mark.parametrize("family", family_names())
K, D = 3, 2
RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
X = RNG.normal(size=(600, D)) + CENTRES[RNG.integers(K, size=600)]
Fit = Callable[[Any], dgmm.GaussianMixture]


def rows() -> dgmm.data.dataset.Dataset:
    """Six blocks."""
    return dgmm.open_dataset(X, block_bytes=1600)


@pytest.fixture(scope="module")
def engines() -> Iterator[list[Any]]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield [dgmm.LocalEngine(1), dgmm.LocalEngine(3), dgmm.DaskEngine(client)]


def same_file(fit: Fit, engines: list[Any], folder: Path) -> dgmm.GaussianMixture:
    """Fit on every engine; the model files are the same, byte for byte."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [fit(engine) for engine in engines]
    for number, model in enumerate(models):
        model.save(folder / str(number))
    first, *others = [(folder / str(number)).read_bytes() for number in range(len(models))]
    assert all(other == first for other in others)
    return models[0]


def mixture(family: str, engine: Any, **options: Any) -> dgmm.GaussianMixture:
    common = {"covariance_type": family, "random_state": 0, "max_iter": 3, "tol": 0.0}
    return dgmm.GaussianMixture(K, engine=engine, **(common | options))


@FAMILIES
def test_priors(family: str, engines: list[Any], tmp_path: Path) -> None:
    def fit(engine: Any) -> dgmm.GaussianMixture:
        priors = dgmm.suggest_priors(rows(), K, family, engine=engine)
        alpha = [1.5, 2.0, 3.0]
        model = mixture(family, engine, weight_concentration_prior=alpha, reg_covar=0, **priors)
        return model.fit(rows())

    model = same_file(fit, engines, tmp_path)
    assert np.all(np.diff(model.lower_bounds_) > 0)


@FAMILIES
def test_fixed_parameters_and_a_floor(family: str, engines: list[Any], tmp_path: Path) -> None:
    held = {"means": [0, 2], "weights": [1]}

    def fit(engine: Any) -> dgmm.GaussianMixture:
        model = mixture(family, engine, means_init=CENTRES, fixed=held, covariance_floor=0.9)
        return model.fit(rows())

    model = same_file(fit, engines, tmp_path)
    assert_array_equal(model.means_[[0, 2]], CENTRES[[0, 2]])


def corners(sample: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    return np.quantile(sample, np.linspace(0.1, 0.9, n_components), axis=0)


STARTS = (
    "kmeans", "k-means++", "k-means||", "random", "random_from_data", "maxdist", "small_em",
    corners,
)  # fmt: skip


@pytest.mark.parametrize(
    ("start", "family"), list(zip(STARTS, cycle(reversed(family_names())), strict=False))
)
def test_starts(start: Any, family: str, engines: list[Any], tmp_path: Path) -> None:
    def fit(engine: Any) -> dgmm.GaussianMixture:
        model = mixture(family, engine, init_params=start, n_init=2)
        # A file does not hold functions.
        return model.fit(rows()).set_params(init_params="kmeans")

    same_file(fit, engines, tmp_path)


@pytest.mark.parametrize("start", STARTS)
def test_every_family_starts_and_is_selected(
    start: Any, engines: list[Any], tmp_path: Path
) -> None:
    tables = []

    def select(engine: Any) -> dgmm.GaussianMixture:
        found = dgmm.select_model(
            rows(), [2, 3], covariance_types=family_names(), init_params=start, n_init=2,
            random_state=0, max_iter=2, tol=0.0, engine=engine,
        )  # fmt: skip
        # The criteria of all candidates, to the bit.
        tables.append(str(found.table.to_dicts()))
        return found.best_.set_params(init_params="kmeans")

    same_file(select, engines, tmp_path)
    assert tables[1] == tables[0]
    assert tables[2] == tables[0]
    assert all(repr(name) in tables[0] for name in family_names())


@FAMILIES
def test_a_fit_that_goes_on(family: str, engines: list[Any], tmp_path: Path) -> None:
    def fit(engine: Any) -> dgmm.GaussianMixture:
        return mixture(family, engine, warm_start=True, max_iter=2).fit(rows()).fit(rows())

    model = same_file(fit, engines, tmp_path)
    with pytest.warns(ConvergenceWarning):
        whole = mixture(family, engines[0], max_iter=4).fit(rows())
    assert_array_equal(model.means_, whole.means_)
    assert model.lower_bound_ == whole.lower_bound_


@FAMILIES
def test_a_pipeline_of_a_frame_and_its_file(
    family: str, engines: list[Any], tmp_path: Path
) -> None:
    frame = pd.DataFrame(X, columns=["a", "b"])

    def pipeline(engine: Any) -> Any:
        scaler = StandardScaler().set_output(transform="pandas")
        return make_pipeline(scaler, mixture(family, engine))

    model = same_file(lambda engine: pipeline(engine).fit(frame)[-1], engines, tmp_path)
    assert model.mixture_.feature_names == ("a", "b")
    scaled = pd.DataFrame(StandardScaler().fit_transform(frame), columns=["a", "b"])
    found = [
        dgmm.GaussianMixture.load(tmp_path / "0").set_params(engine=engine).predict_proba(scaled)
        for engine in engines
    ]
    assert_array_equal(found[1], found[0])
    assert_array_equal(found[2], found[0])
    assert_allclose(found[0], model.mixture_.responsibilities(scaled), atol=1e-9)


@FAMILIES
def test_weighted_batches_with_a_prior_and_held_means(
    family: str, engines: list[Any], tmp_path: Path
) -> None:
    def fit(engine: Any) -> dgmm.GaussianMixture:
        model = mixture(
            family, engine, means_init=CENTRES, fixed={"means": [0]}, covariance_floor=0.2,
            weight_concentration_prior=2.0,
        )  # fmt: skip
        for part in np.array_split(X, 2):
            batch = dgmm.open_dataset(part, block_bytes=1600)
            model.partial_fit(batch, sample_weight=np.arange(len(part)) % 3)
        return model

    model = same_file(fit, engines, tmp_path)
    assert_array_equal(model.means_[0], CENTRES[0])
    assert np.any(model.means_[1:] != CENTRES[1:])
