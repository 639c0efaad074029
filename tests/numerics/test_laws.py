"""Laws: statistics and profiles merge as monoids, points go to a frame and back."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dgmm.covariance import family_names, family_of
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError
from dgmm.features import Layout, fill_features, pack_symmetric, unpack_symmetric
from dgmm.frame import Frame
from dgmm.mixture import whitened_frame
from dgmm.profile import Profile, ProfilePass
from dgmm.row_sample import Sample
from dgmm.statistics import BatchStatistics, SufficientStatistics
from tests.numerics.problems import profile_of, profile_task, random_covariances

SEEDS = st.integers(0, 2**32 - 1)
FAMILIES = pytest.mark.parametrize("name", family_names())

# ------------------------------------------------------------------------------------- the monoids


def statistics(seed, *, with_total=False):
    rng = np.random.default_rng(seed)
    return SufficientStatistics(
        moments=rng.standard_normal((2, 5)) * 10 ** rng.uniform(-6, 6),
        frame=Frame(np.array([1.0, 2.0]), np.array([[1.0, 0.0], [0.5, 2.0]])),
        log_likelihood=rng.normal(),
        weight=rng.random(),
        n_rows=int(rng.integers(1, 100)),
        peak=rng.normal(),
        log_assignment=-rng.random(),
        total=rng.standard_normal((2, 2)) if with_total else None,
    )


def assert_same(ours, truth):
    if isinstance(truth, BatchStatistics):
        for mine, theirs in zip(ours.members, truth.members, strict=True):
            assert_same(mine, theirs)
        return
    assert (ours.n_rows, ours.peak, ours.frame) == (truth.n_rows, truth.peak, truth.frame)
    scale = np.max(np.abs(truth.moments))
    assert_allclose(ours.moments, truth.moments, rtol=1e-12, atol=1e-12 * scale)
    for name in ("log_likelihood", "weight", "log_assignment"):
        assert getattr(ours, name) == pytest.approx(getattr(truth, name), rel=1e-12, abs=1e-12)
    assert (ours.total is None) == (truth.total is None)
    if truth.total is not None:
        assert_allclose(ours.total, truth.total, rtol=1e-12, atol=1e-12)


@given(st.tuples(SEEDS, SEEDS, SEEDS), st.booleans())
def test_statistics_are_a_commutative_monoid(seeds, with_total):
    a, b, c = (statistics(seed, with_total=with_total) for seed in seeds)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(a.merge(b), b.merge(a))
    nothing = SufficientStatistics.zeros(2, 5, a.frame)
    assert_same(a.merge(nothing), a)
    assert_same(nothing.merge(a), a)


@given(st.lists(SEEDS, min_size=3, max_size=3))
def test_batches_merge_mixture_by_mixture(seeds):
    batches = [
        BatchStatistics((statistics(seed), statistics(seed + 1, with_total=True))) for seed in seeds
    ]
    a, b, c = batches
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(b).members[1], a.members[1].merge(b.members[1]))


def test_batches_of_different_sizes_do_not_merge():
    one = statistics(1)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        BatchStatistics((one,)).merge(BatchStatistics((one, one)))


@pytest.mark.parametrize(
    "other",
    [
        Frame(np.array([1.0, 2.0])),
        Frame(np.array([1.0, 2.0 + 1e-15]), np.array([[1.0, 0.0], [0.5, 2.0]])),
        Frame(np.array([1.0, 2.0]), np.array([[1.0, 0.0], [0.5, 2.5]])),
        Frame(np.array([1.0, 2.0]), np.array([1.0, 2.0])),
        Frame(np.array([[1.0, 2.0], [1.0, 2.0]])),
    ],
)
def test_statistics_of_another_frame_are_refused(other):
    one = statistics(1)
    with pytest.raises(ValueError, match="frame"):
        one.merge(replace(one, frame=other))


def test_a_frame_that_was_sent_and_came_back_is_the_same():
    one, copy = (Frame(np.array([1.0, 2.0]), np.eye(2)) for _ in range(2))
    assert one == copy
    assert hash(one) == hash(copy)


# ------------------------------------------------------------------------------------- the profile


def cut(rows, edges):
    return [rows.part(start, stop) for start, stop in pairwise([0, *edges, rows.n_rows])]


def nothing_profiled(n_features):
    wide, none = np.full(n_features, np.inf), np.zeros(n_features)
    sample = Sample(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros((0, n_features)), 20)
    return Profile(0, 0.0, none, np.zeros((n_features, n_features)), wide, -wide, sample)


def assert_same_profile(ours, truth):
    assert (ours.n_rows, ours.weight) == (truth.n_rows, truth.weight)
    assert_array_equal(ours.least, truth.least)
    assert_array_equal(ours.most, truth.most)
    assert_array_equal(np.sort(ours.sample.rows), np.sort(truth.sample.rows))
    assert_allclose(ours.mean, truth.mean, rtol=1e-14, atol=1e-14)
    size = np.max(np.abs(truth.scatter))
    assert_allclose(ours.scatter, truth.scatter, rtol=1e-12, atol=1e-12 * size)


@given(SEEDS, st.lists(st.integers(1, 199), min_size=2, max_size=2, unique=True))
def test_profiles_are_a_commutative_monoid(seed, edges):
    x = np.random.default_rng(seed).standard_normal((200, 3)) * [1.0, 10.0, 0.1] + 5.0
    task = profile_task(x, size=20, seed=seed)
    a, b, c = (task.evaluate(rows, None) for rows in cut(Rows(x), sorted(edges)))
    assert_same_profile(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same_profile(a.merge(b), b.merge(a))
    nothing = nothing_profiled(3)
    assert_same_profile(a.merge(nothing), a)
    assert_same_profile(nothing.merge(a), a)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
@pytest.mark.parametrize("n_parts", [1, 5])
def test_moments_keep_their_digits_at_an_offset(offset, dtype, n_parts):
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((4, 4))
    x = (offset + rng.standard_normal((20000, 4)) @ mixing).astype(dtype)
    wide = x.astype(np.longdouble)
    mean = wide.mean(axis=0)
    scatter = ((wide - mean).T @ (wide - mean)).astype(np.float64)
    profile = profile_of(x, n_parts=n_parts)
    assert_allclose(profile.mean, mean.astype(np.float64), rtol=1e-13, atol=1e-13)
    size = np.max(np.abs(scatter)) or 1.0
    # Half a unit in the last place of a mean of 1e9 is 1e-7 of these deviations.
    limit = (1e-11 + 5e-18 * offset) * size
    assert_allclose(profile.scatter, scatter, rtol=0, atol=limit)
    origin = profile.mean.astype(dtype).astype(np.float64)
    about = ((wide - origin).T @ (wide - origin)).astype(np.float64)
    assert_allclose(profile.scatter_about(origin), about, rtol=1e-9, atol=limit)


def test_the_diagonal_alone_is_the_diagonal_of_the_whole():
    x = np.random.default_rng(2).standard_normal((5000, 3)) + 7
    whole, narrow = profile_of(x, n_parts=4), profile_of(x, n_parts=4, dense=False)
    assert_allclose(narrow.scatter, np.diagonal(whole.scatter), rtol=1e-13)
    origin = np.ones(3)
    about = np.diagonal(whole.scatter_about(origin))
    assert_allclose(narrow.scatter_about(origin), about, rtol=1e-13)


def test_constant_features_are_named():
    x = np.random.default_rng(3).standard_normal((50, 3)).astype(np.float32)
    x[:, 1] = 0.1
    profile = profile_of(x, n_parts=3)
    assert profile.constant_features == (1,)
    assert profile.scatter[1, 1] == 0.0


@given(
    seed=SEEDS,
    n_rows=st.integers(1, 400),
    size=st.integers(1, 120),
    cuts=st.sets(st.integers(1, 399), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_the_sample_does_not_depend_on_how_rows_are_cut(seed, n_rows, size, cuts, order):
    x = np.arange(n_rows, dtype=np.float64)[:, None]
    task = profile_task(x, size=size, seed=seed)
    whole = task.evaluate(Rows(x), None).sample
    assert len(whole.rows) == len(whole.x) == min(n_rows, size)
    parts = cut(Rows(x), sorted(edge for edge in cuts if edge < n_rows))
    samples = [task.evaluate(part, None).sample for part in parts]
    merged = reduce(lambda mine, theirs: mine.merge(theirs), samples)
    for name in ("rows", "keys", "x"):
        assert_array_equal(getattr(merged, name), getattr(whole, name))
    assert_array_equal(whole.x[:, 0], whole.rows)
    order.shuffle(samples)
    shuffled = reduce(lambda mine, theirs: mine.merge(theirs), samples)
    assert set(shuffled.rows) == set(whole.rows)


def test_every_row_is_sampled_as_often_as_any_other():
    x = np.zeros((60, 1))
    seen = np.zeros(60)
    for seed in range(2000):
        seen[profile_of(x, size=6, seed=seed).sample.rows] += 1
    # Binomial(2000, 0.1): five standard deviations are 67.
    assert np.all(np.abs(seen - 200) < 67)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(value):
    x = np.zeros((9000, 2))
    x[4321, 1] = value
    with pytest.raises(InvalidDataError, match=r"row 5321, feature 1") as caught:
        profile_task(x).evaluate(Rows(x, first_row=1000), None)
    assert str(value) in str(caught.value)


# ------------------------------------------------------------------------------ frames and layouts


@given(SEEDS, st.integers(1, 6), st.sampled_from(["none", "scale", "matrix", "own", "own matrix"]))
def test_points_go_to_a_frame_and_back(seed, d, kind):
    rng = np.random.default_rng(seed)
    k = 3
    per_component = kind.startswith("own")
    origin = 1e3 * rng.standard_normal((k, d) if per_component else d)
    factor = None
    if kind == "scale":
        factor = np.exp(rng.uniform(-5, 5, d))
    elif kind.endswith("matrix"):
        factor = np.linalg.cholesky(random_covariances(rng, k, d, 1e4))
        factor = factor if per_component else factor[0]
    frame = Frame(origin, factor)
    points = origin + rng.standard_normal((k, d))
    z = frame.points_to_frame(points)
    assert_allclose(frame.points_from_frame(z), points, rtol=1e-10, atol=1e-10)
    assert frame.is_per_component == per_component
    assert frame.is_matrix == kind.endswith("matrix")


@FAMILIES
@given(seed=SEEDS)
def test_scatters_of_a_frame_are_those_of_its_points(name, seed):
    rng = np.random.default_rng(seed)
    shape, d = family_of(name).shape, 4
    if shape.uses_whitening():
        frame = whitened_frame(rng.standard_normal(d), random_covariances(rng, 1, d, 100.0)[0])
    else:
        frame = Frame(rng.standard_normal(d), np.full(d, 3.0))
    x = rng.standard_normal((30, d))
    z = np.array([frame.points_to_frame(row) for row in x])
    inside = shape.project(z.T @ z)
    outside = shape.project((x - frame.origin).T @ (x - frame.origin))
    assert_allclose(shape.scatter_from_frame(inside, frame), outside, rtol=1e-8, atol=1e-8)


@given(SEEDS, st.integers(1, 8))
def test_packing_a_symmetric_matrix_and_back(seed, d):
    layout = Layout(d)
    half = np.random.default_rng(seed).standard_normal((3, d, d))
    matrix = half + np.swapaxes(half, 1, 2)
    diagonal, pairs = pack_symmetric(matrix, layout)
    assert pairs.shape == (3, layout.full - layout.diagonal)
    assert_array_equal(unpack_symmetric(diagonal, pairs, layout), matrix)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_features_are_what_the_layout_says(d):
    layout = Layout(d)
    z = np.random.default_rng(4).standard_normal((7, d))
    features = np.ones((layout.full, 7))
    features[layout.means] = z.T
    fill_features(features, layout.full, layout, np)
    assert_allclose(features[layout.norm], np.sum(z**2, axis=1))
    second = unpack_symmetric(features[layout.squares].T, features[layout.pairs].T, layout)
    assert_allclose(second, z[:, :, None] * z[:, None, :])
    for size in (layout.linear, layout.scalar, layout.diagonal):
        leading = np.ones((size, 7))
        leading[layout.means] = z.T
        fill_features(leading, size, layout, np)
        assert_allclose(leading, features[:size])


def test_a_whitened_frame_exists_for_any_covariance():
    for covariance in (np.zeros((3, 3)), np.ones((3, 3)), np.diag([1e12, 1e-12, 0.0])):
        frame = whitened_frame(np.zeros(3), covariance)
        assert frame.is_matrix
        assert np.all(np.isfinite(frame.inverse))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_profile_of_narrow_rows_stays_within_its_memory(weighted):
    n = 2**20
    x = np.random.default_rng(0).standard_normal((n, 1)).astype("float32")
    weight = np.full(n, 2.0) if weighted else None
    task = ProfilePass(n, 1, 1000, 0, 4, weighted=weighted)
    tracemalloc.start()
    try:
        task.evaluate(Rows(x, weight=weight), task.workspace())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= task.workspace_bytes + 2 * task.result_bytes + task.sample_bytes


def test_a_sample_does_not_depend_on_how_many_rows_are_hashed_together(monkeypatch):
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((1000, 2)), rng.integers(0, 3, 1000).astype(float)
    labels = np.where(np.arange(1000) % 3 == 0, 1, -1)
    for rows in (Rows(x, 7), Rows(x, 7, weight=weight, labels=labels)):
        has = rows.weight is not None
        task = ProfilePass(1000, 2, 50, 3, 8, weighted=has, labelled=has)
        whole = task.evaluate(rows, None)
        with monkeypatch.context() as patch:
            patch.setattr("dgmm.profile._HASHED_ROWS", 64)
            pieces = task.evaluate(rows, None)
        pairs = [(whole.sample, pieces.sample)] + ([(whole.known, pieces.known)] if has else [])
        for right, found in pairs:
            np.testing.assert_array_equal(found.rows, right.rows)
            np.testing.assert_array_equal(found.x, right.x)
            assert found.least_dropped == right.least_dropped
