"""Draws: their distribution, their ranges, and that chunks do not change them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.stats import chi, chi2, kstest

import dgmm
from dgmm import sampling
from tests.values.cases import FAMILIES, mixture_of, moments

INF = np.inf


@pytest.fixture(params=FAMILIES)
def mixture(request: pytest.FixtureRequest) -> dgmm.Mixture:
    return mixture_of(request.param)


def own_distances(mixture: dgmm.Mixture, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return mixture.mahalanobis(x)[np.arange(len(x)), y]


def test_draws_have_the_moments_of_the_mixture(mixture: dgmm.Mixture) -> None:
    x, y = mixture.sample(100_000, random_state=0)
    mean, covariance = moments(mixture)
    assert_allclose(x.mean(axis=0), mean, atol=0.03)
    assert_allclose(np.cov(x.T), covariance, atol=0.06)
    assert_allclose(np.bincount(y) / len(y), mixture.weights, atol=0.01)


@pytest.mark.parametrize("std_range", [None, (0.0, 1.0), (1.5, 2.5), (3.0, INF), (6.0, 6.5)])
def test_distances_follow_the_truncated_chi(mixture: dgmm.Mixture, std_range: Any) -> None:
    x, y = mixture.sample(4000, std_range=std_range, random_state=0)
    low, high = std_range or (0.0, INF)
    r = own_distances(mixture, x, y)
    assert np.all((r >= low - 1e-9) & (r <= high + 1e-9))
    tail = chi(3).sf([low, high])
    uniform = (tail[0] - chi(3).sf(np.clip(r, low, high))) / (tail[0] - tail[1])
    assert kstest(uniform, "uniform").pvalue > 0.01


def test_directions_are_uniform(mixture: dgmm.Mixture) -> None:
    x, _ = mixture.sample(4000, component=1, std_range=(2.0, 2.5), random_state=0)
    white = mixture.family.shape.times(
        mixture.family.per_component(mixture.whiteners, 3)[1], x - mixture.means[1]
    )
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    for feature in range(3):  # Archimedes: on the sphere in three dimensions, each is uniform.
        assert kstest(white[:, feature], "uniform", args=(-1, 2)).pvalue > 0.01


@pytest.mark.parametrize("confidence", [1e-12, 0.5, 0.99, 1 - 1e-12])
def test_confidence_is_a_quantile_of_chi_squared(mixture: dgmm.Mixture, confidence: float) -> None:
    x, y = mixture.sample(2000, confidence=confidence, random_state=0)
    squares = own_distances(mixture, x, y) ** 2
    assert squares.max() <= chi2(3).ppf(confidence) * (1 + 1e-6)
    uniform = chi2(3).cdf(squares) / confidence
    assert kstest(uniform, "uniform").pvalue > 0.01


def test_a_component_of_its_own(mixture: dgmm.Mixture) -> None:
    x, y = mixture.sample(20_000, component=2, random_state=0)
    assert set(y) == {2}
    assert_allclose(x.mean(axis=0), mixture.means[2], atol=0.05)


@pytest.mark.parametrize(
    ("d", "low", "high"),
    [(2, 50.0, INF), (2, 50.0, 50.001), (1, 45.0, 60.0), (500, 0.0, 1.0), (3, 0.0, 1e-120)],
)
def test_ranges_of_no_probability_to_speak_of(d: int, low: float, high: float) -> None:
    uniform = (np.arange(4001) + 0.5) / 4001
    r = sampling._radii(uniform, d, low, high)
    assert np.all((r >= low) & (r <= high))

    # The mean of the truncated distribution, by quadrature relative to its highest density.
    end = low if low > np.sqrt(d - 1) else high
    stop = min(high, low + 2.0) if end == low else high

    def weight(s: float) -> float:
        return float(np.exp((d - 1) * np.log(s / end) - (s - end) * (s + end) / 2)) if s else 0.0

    start = max(low, high * 0.9) if end == high and d == 500 else low
    edge = {"points": [start + (stop - start) * 0.01]} if end == low else {}
    total = quad(weight, start, stop, limit=200, **edge)[0]
    mean = quad(lambda s: (s - start) * weight(s), start, stop, limit=200, **edge)[0] / total
    assert r.mean() - start == pytest.approx(mean, rel=2e-3)


def test_one_dimension_and_a_range_of_next_to_nothing() -> None:
    r = sampling._radii(np.linspace(0, 1, 5), 1, 0.0, 1e-300)
    assert_allclose(r, np.linspace(0, 1, 5) * 1e-300)


def test_a_seed_repeats_and_seeds_differ(mixture: dgmm.Mixture) -> None:
    first, again, other = (mixture.sample(50, random_state=seed)[0] for seed in (7, 7, 8))
    assert_array_equal(first, again)
    assert not np.any(first == other)


@pytest.mark.parametrize("chunk", [1, 333, 5000])
def test_chunks_do_not_change_the_rows(
    mixture: dgmm.Mixture, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_MOST_ROWS", 400)
    n = 1001 if chunk > 1 else 50
    x, y = mixture.sample(n, random_state=3, std_range=(1, 2))
    rows = zarr.create_array(str(tmp_path / "x"), shape=(n, 3), chunks=(chunk, 3), dtype="f8")
    found, labels = mixture.sample(
        n, random_state=3, std_range=(1, 2), out=(rows, tmp_path / "y.zarr")
    )
    assert_array_equal(found[:], x)
    assert_array_equal(labels[:], y)


def test_pieces_are_independent_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_MOST_ROWS", 64)
    x, y = mixture_of("full").sample(1000, random_state=0)
    assert x.shape == (1000, 3)
    assert len(np.unique(x[:, 0])) == 1000
    assert set(y[:64]) == {0, 1, 2}


def test_streaming_holds_pieces_and_not_the_whole(tmp_path: Path) -> None:
    rows = zarr.create_array(
        str(tmp_path / "x"), shape=(1_000_000, 4), chunks=(20_000, 4), dtype="f8"
    )
    mixture = mixture_of("full", n_features=4)
    tracemalloc.start()
    try:
        mixture.sample(1_000_000, out=rows, random_state=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6 < rows.nbytes / 1.9


def test_the_estimator_streams_in_its_dtype(tmp_path: Path) -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(
        np.random.default_rng(0).normal(size=(80, 2)).astype("f4")
    )
    rows, labels = model.sample(70_000, out=tmp_path / "x.zarr")
    assert labels is None
    assert rows.dtype == np.float32
    assert_array_equal(rows[:], model.sample(70_000)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": 0.0}, "between 0 and 1"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"confidence": np.nan}, "between 0 and 1"),
        ({"confidence": "0.5"}, "between 0 and 1"),
        ({"std_range": (2.0, 1.0)}, "0 <= a < b"),
        ({"std_range": (-1.0, 1.0)}, "0 <= a < b"),
        ({"std_range": (1.0, 1.0)}, "0 <= a < b"),
        ({"std_range": (INF, INF)}, "0 <= a < b"),
        ({"std_range": (0.0, np.nan)}, "0 <= a < b"),
        ({"std_range": 1.0}, "0 <= a < b"),
        ({"std_range": "12"}, "0 <= a < b"),
        ({"std_range": ("1", "2")}, "0 <= a < b"),
        ({"std_range": (1e300, INF)}, "a less than 1e.150"),
        ({"confidence": 0.5, "std_range": (0, 1)}, "both given"),
        ({"component": 3}, "from 0 to 2"),
        ({"component": -1}, "from 0 to 2"),
        ({"component": 1.0}, "from 0 to 2"),
        ({"n_samples": 0}, "at least one sample"),
        ({"n_samples": 2.5}, "at least one sample"),
        ({"out": 3}, "path, a URL or a zarr.Array"),
        ({"out": ("x", "y", "z")}, "out is a tuple of 3"),
    ],
)
def test_draws_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    mixture = mixture_of("full")
    model = dgmm.GaussianMixture.from_parameters(
        mixture.weights, mixture.means, mixture.covariances
    )
    for one in (mixture, model):
        with pytest.raises(dgmm.InvalidParameterError, match=message):
            one.sample(**arguments)


def test_a_range_without_an_end_to_speak_of() -> None:
    mixture = mixture_of("full")
    rows = [mixture.sample(9, std_range=(1.0, b), random_state=0)[0] for b in (INF, 1e300)]
    np.testing.assert_array_equal(rows[0], rows[1])


def test_rows_that_do_not_fit_are_streamed_or_refused(tmp_path: Path) -> None:
    mixture = mixture_of("full")
    with pytest.raises(dgmm.MemoryLimitError, match="pass out= to stream"):
        mixture.sample(2**58)
    model = dgmm.GaussianMixture.from_parameters(
        mixture.weights, mixture.means, mixture.covariances, memory_limit="1MiB"
    )
    with pytest.raises(dgmm.MemoryLimitError, match=r"memory_limit is 1 MiB.*pass out="):
        model.sample(100_000)
    assert model.sample(100_000, out=tmp_path / "rows.zarr")[0].shape[0] == 100_000


def test_an_unfitted_estimator_cannot_be_sampled() -> None:
    with pytest.raises(dgmm.DgmmError, match="not fitted yet"):
        dgmm.GaussianMixture(2).sample()


def test_a_singular_component_cannot_be_sampled() -> None:
    flat = dgmm.Mixture([1.0], [[0.0, 0.0]], [[1.0, 0.0]], "diag")
    with pytest.raises(dgmm.InvalidParameterError, match="component 0 is not positive definite"):
        flat.sample(3)
