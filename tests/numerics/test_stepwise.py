"""Stepwise EM: blended statistics, and statistics that a mixture implies."""

from __future__ import annotations

import numpy as np
import pytest

from dgmm.covariance import family_names
from dgmm.frame import Frame
from dgmm.guard import Frames, Level
from dgmm.maximization import maximize
from dgmm.stepwise import StepSizes, blend, expect, expected_statistics
from tests.numerics.problems import SerialSession, random_mixture, rows_of


@pytest.mark.parametrize("name", family_names())
def test_the_m_step_of_what_a_mixture_implies_is_the_mixture(name) -> None:
    mixture = random_mixture(np.random.default_rng(0), name, 4, 3, offset=2.0)
    for origin in (np.zeros(3), mixture.weights @ mixture.means):
        found = maximize(expected_statistics(mixture, Frame(origin)), mixture.family).mixture
        np.testing.assert_allclose(found.weights, mixture.weights, rtol=1e-12)
        np.testing.assert_allclose(found.means, mixture.means, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.covariances, mixture.covariances, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", family_names())
@pytest.mark.parametrize("level", list(Level))
def test_every_kernel_gives_second_moments_that_blend(name, level) -> None:
    mixture = random_mixture(np.random.default_rng(1), name, 3, 3)
    x = rows_of(mixture, 400, 2)
    plain = Frame(x.mean(axis=0))
    whitened = Frame(plain.origin, np.linalg.cholesky(np.cov(x.T)))
    frames = Frames(plain, whitened)
    old = expected_statistics(mixture, plain)
    halves = [
        expect(SerialSession(part), frames, mixture, level, "cpu") for part in (x[:100], x[100:])
    ]
    # Half and half of two batches whose weights are 1 to 3, whatever frame each came in.
    both = blend(blend(old, halves[0], 1.0 - 1e-300), halves[1], 0.75)
    whole = expect(SerialSession(x), frames, mixture, Level.FLOAT64, "cpu")
    mixed, exact = (maximize(one, mixture.family).mixture for one in (both, whole))
    tolerance = 1e-4 if level is Level.FLOAT32 else 1e-9
    np.testing.assert_allclose(mixed.means, exact.means, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(mixed.covariances, exact.covariances, rtol=tolerance, atol=tolerance)


def test_steps_shrink_to_what_is_to_be_forgotten() -> None:
    sizes = StepSizes(0.6, 2.0, 0.05)
    assert sizes(1) == pytest.approx(3.0**-0.6)
    assert all(sizes(t) >= sizes(t + 1) for t in range(1, 400))
    assert sizes(10**6) == 0.05
    assert StepSizes(lambda t: 1 / t, 0.0, 0.0)(4) == 0.25
