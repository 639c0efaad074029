"""Moved statistics are those that the rows would have given in the other frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.covariance import family_names, family_of
from dgmm.features import Layout, fill_features
from dgmm.frame import Frame
from dgmm.maximization import maximize
from dgmm.reframing import reframe
from dgmm.statistics import SufficientStatistics

K, D = 3, 4


def statistics_of(x, weights, frame, size):
    """The sums, computed from the rows one component at a time."""
    layout = Layout(D)
    moments = np.zeros((K, size))
    for k in range(K):
        one = frame
        if frame.is_per_component:
            one = Frame(frame.origin[k], None if frame.factor is None else frame.factor[k])
        features = np.empty((layout.full, len(x)))
        features[0] = 1.0
        features[layout.means] = one.points_to_frame(x).T
        fill_features(features, layout.full, layout, np)
        moments[k] = features[:size] @ weights[:, k]
    return SufficientStatistics(moments, frame, -3.0, float(weights.sum()), len(x))


def random_frame(rng, kind, per_component):
    lead = (K,) if per_component else ()
    origin = rng.normal(size=(*lead, D))
    if kind == "plain":
        return Frame(origin)
    if kind == "uniform":
        return Frame(origin, np.repeat(rng.uniform(0.5, 2.0, (*lead, 1)), D, axis=-1))
    if kind == "scale":
        return Frame(origin, rng.uniform(0.5, 2.0, (*lead, D)))
    return Frame(origin, np.tril(rng.normal(size=(*lead, D, D)), -1) + 1.5 * np.eye(D))


KINDS = {
    "scalar": ("plain", "uniform"),
    "diagonal": ("plain", "uniform", "scale"),
    "full": ("plain", "uniform", "scale", "matrix"),
}


@pytest.mark.parametrize("block", KINDS)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_moving_is_recomputing(block, data, seed) -> None:
    rng = np.random.default_rng(seed)
    old, new = (
        random_frame(rng, data.draw(st.sampled_from(KINDS[block])), data.draw(st.booleans()))
        for _ in range(2)
    )
    x, weights = rng.normal(size=(20, D)), rng.dirichlet(np.ones(K), size=20)
    size = getattr(Layout(D), block)
    found = reframe(statistics_of(x, weights, old, size), new)
    expected = statistics_of(x, weights, new, size)
    np.testing.assert_allclose(found.moments, expected.moments, rtol=1e-9, atol=1e-9)
    assert found.frame is new
    assert (found.log_likelihood, found.weight, found.n_rows) == (-3.0, expected.weight, 20)


@pytest.mark.parametrize("name", family_names())
def test_the_m_step_does_not_depend_on_the_frame(name) -> None:
    rng = np.random.default_rng(1)
    x, weights = rng.normal(size=(200, D)) + 5.0, rng.dirichlet(np.ones(K), size=200)
    family = family_of(name)
    size = family.shape.block(Layout(D))
    here = statistics_of(x, weights, Frame(np.zeros(D)), size)
    there = reframe(here, Frame(np.full(D, 5.0)))
    one, other = (maximize(statistics, family).mixture for statistics in (here, there))
    np.testing.assert_allclose(one.means, other.means, rtol=1e-12)
    np.testing.assert_allclose(one.covariances, other.covariances, rtol=1e-10, atol=1e-12)


def test_what_cannot_be_moved_is_refused() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(5, D)), np.ones((5, K))
    layout, plain = Layout(D), Frame(np.zeros(D))
    linear = statistics_of(x, weights, plain, layout.linear)
    with pytest.raises(ValueError, match="without second moments"):
        reframe(linear, Frame(np.ones(D)))
    diagonal = statistics_of(x, weights, plain, layout.diagonal)
    with pytest.raises(ValueError, match="mixes features"):
        reframe(diagonal, random_frame(rng, "matrix", per_component=False))
