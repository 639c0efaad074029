"""Posterior policies against their definitions, and the weighted profile and sample."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dgmm.backend import Backend
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.expectation import BatchPass, plan_batch
from dgmm.guard import Level
from dgmm.posterior import (
    Annealed,
    Classification,
    Expectation,
    KnownLabels,
    Stochastic,
    uniforms,
)
from dgmm.testing.families import frames_around, oracle_responsibilities
from tests.numerics.problems import blobs, oracle, profile_task, random_mixture

KEY = (7, 11)


def joint_of(seed=0, k=4, n=500):
    return 3.0 * np.random.default_rng(seed).standard_normal((k, n))


def applied(policy, joint, rows):
    weights = joint.copy()
    return weights, policy(weights, rows, Backend(np))


def rows_with(**columns):
    return Rows(np.zeros((500, 1)), **columns)


def test_classification_counts_a_row_for_its_likeliest_component():
    joint = joint_of()
    weights, posterior = applied(Classification(), joint, rows_with())
    assert_array_equal(weights, np.arange(4)[:, None] == joint.argmax(axis=0))
    assert_allclose(posterior.log_density + posterior.log_assignment, joint.max(axis=0))


@pytest.mark.parametrize("temperature", [1.0, 2.5, 1e6])
def test_annealing_tempers_the_responsibilities_and_not_the_likelihood(temperature):
    joint = joint_of()
    weights, posterior = applied(Annealed(temperature), joint, rows_with())
    density, exact = oracle_responsibilities(joint)
    tempered = exact ** (1 / temperature)
    assert_allclose(weights, tempered / tempered.sum(axis=0), rtol=1e-12)
    assert_allclose(posterior.log_density, density, rtol=1e-12)
    assert_allclose(posterior.log_assignment, np.log(exact.max(axis=0)), atol=1e-12)


def test_stochastic_draws_follow_the_responsibilities():
    with np.errstate(divide="ignore"):
        joint = np.repeat(np.log([[0.1], [0.0], [0.6], [0.3]]), 100_000, axis=1)
    weights, _ = applied(Stochastic(KEY), joint, Rows(np.zeros((100_000, 1))))
    assert_array_equal(weights.sum(axis=0), 1.0)
    assert_allclose(weights.mean(axis=1), [0.1, 0.0, 0.6, 0.3], atol=6e-3)


@given(st.integers(0, 2**40), st.lists(st.integers(1, 499), max_size=5, unique=True))
def test_draws_belong_to_rows_and_not_to_tiles(first_row, cuts):
    rows = rows_with(first_row=first_row)
    edges = [0, *sorted(cuts), 500]
    parts = [uniforms(KEY, rows.part(a, b)) for a, b in itertools.pairwise(edges)]
    assert_array_equal(np.concatenate(parts), uniforms(KEY, rows))


def test_rows_that_are_left_out_take_their_draws_with_them():
    weight = (np.arange(500) % 3 > 0).astype(float)
    rows = rows_with(weight=weight, first_row=41)
    assert_array_equal(uniforms(KEY, rows.counted()), uniforms(KEY, rows)[weight > 0])


def test_draws_of_other_keys_are_others():
    found = [uniforms(key, rows_with()) for key in ((0, 0), (1, 0), (0, 1))]
    assert abs(np.corrcoef(found) - np.eye(3)).max() < 0.2


@pytest.mark.parametrize(
    "policy", [Expectation(), Classification(), Annealed(2.0), Stochastic(KEY)], ids=repr
)
def test_known_rows_count_for_their_component(policy):
    joint, labels = joint_of(), np.where(np.arange(500) % 4, -1, np.arange(500) % 3)
    rows = rows_with(labels=labels)
    weights, posterior = applied(KnownLabels(policy), joint, rows)
    free, other = applied(policy, joint, rows)
    known = labels >= 0
    assert_array_equal(weights[:, known], np.arange(4)[:, None] == labels[known])
    assert_array_equal(posterior.log_density[known], joint[labels[known], np.flatnonzero(known)])
    assert_array_equal(weights[:, ~known], free[:, ~known])
    assert_array_equal(posterior.log_density[~known], other.log_density[~known])


@pytest.mark.parametrize("name", family_names())
@pytest.mark.parametrize("level", list(Level))
def test_the_classification_likelihood_is_the_oracles(name, level):
    x = blobs(3, dtype=level.dtype)
    mixture = random_mixture(np.random.default_rng(3), name, 3, 3)
    frames = frames_around(mixture)
    kernels = plan_batch([mixture], [level], frames, quadratic=False)
    task = BatchPass(kernels, policies=(Classification(),))
    total = (x.astype(float) - frames.plain.origin).T @ (x.astype(float) - frames.plain.origin)
    merged = task.evaluate(Rows(x), task.workspace())
    (found,) = task.finish(merged, [mixture], [mixture.family.shape.project(total)]).members
    density, responsibilities = oracle(mixture, x)
    exact = float((density + np.log(responsibilities.max(axis=0))).sum())
    tolerance = 1e-5 if level is Level.FLOAT32 else 1e-11
    assert found.log_likelihood + found.log_assignment == pytest.approx(exact, rel=tolerance)
    assert_array_equal(found.counts, np.bincount(responsibilities.argmax(axis=0), minlength=3))


def test_mixtures_of_a_batch_may_follow_different_policies():
    x = blobs(4)
    mixture = random_mixture(np.random.default_rng(4), "full", 3, 3)
    policies = (Expectation(), Classification(), Stochastic(KEY))
    kernels = plan_batch([mixture] * 3, [Level.FLOAT64] * 3, frames_around(mixture))
    task = BatchPass(kernels, policies=policies)
    together = task.evaluate(Rows(x), task.workspace()).members
    for policy, one in zip(policies, together, strict=True):
        kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
        alone = BatchPass(kernels, policy)
        (expected,) = alone.evaluate(Rows(x), alone.workspace()).members
        assert_allclose(one.moments, expected.moments, rtol=1e-12, atol=1e-9)


# ------------------------------------------------------------------------------------- the profile


def weighted_profile(x, weight, n_parts=1, size=64, labels=None):
    task = profile_task(x, size, weighted=True, labelled=labels is not None, n_labels=3)
    edges = np.linspace(0, len(x), n_parts + 1).astype(int)
    rows = Rows(x, weight=weight, labels=labels)
    parts = [task.evaluate(rows.part(a, b), None) for a, b in itertools.pairwise(edges)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


@pytest.mark.parametrize("n_parts", [1, 7])
def test_the_moments_are_those_of_repeated_rows(n_parts):
    x = blobs(5) + 1e6
    copies = np.random.default_rng(5).integers(0, 4, len(x))
    copies[:200] = 0  # parts without any row that counts
    x[copies == 0] = np.nan
    found = weighted_profile(x, copies.astype(float), n_parts)
    repeated = np.repeat(x, copies, axis=0)
    assert (found.weight, found.n_rows) == (copies.sum(), np.count_nonzero(copies))
    centred = repeated - repeated[0]
    assert_allclose(found.mean, repeated[0] + centred.mean(axis=0), rtol=1e-15)
    assert_allclose(found.covariance, np.cov(repeated.T, bias=True), rtol=1e-9, atol=1e-9)
    assert_array_equal(found.least, repeated.min(axis=0))
    assert not np.isnan(found.sample.x).any()


def test_a_weighted_sample_is_the_same_whatever_the_parts_are():
    x, weight = blobs(6), np.random.default_rng(6).exponential(size=600)
    one, many = weighted_profile(x, weight).sample, weighted_profile(x, weight, 9).sample
    assert_array_equal(one.rows, many.rows)
    assert one.least_dropped == many.least_dropped
    assert_array_equal(one.shares, many.shares)
    # The scale of the weights means nothing.
    assert_array_equal(weighted_profile(x, 4.0 * weight).sample.rows, one.rows)


def test_the_shares_of_a_sample_estimate_totals_without_bias():
    rng = np.random.default_rng(7)
    x, weight = rng.normal(size=(2000, 1)), rng.pareto(1.5, 2000)
    exact = weight @ x[:, 0] / weight.sum()
    means = []
    for seed in range(200):
        task = profile_task(x, 100, seed, weighted=True)
        sample = task.evaluate(Rows(x, weight=weight), None).sample
        means.append(np.average(sample.x[:, 0], weights=sample.shares))
    assert abs(np.mean(means) - exact) < 4 * np.std(means) / np.sqrt(len(means)) + 0.01


def test_shares_are_the_weights_where_all_rows_are_sampled():
    weight = np.random.default_rng(8).exponential(size=600)
    sample = weighted_profile(blobs(8), weight, size=600).sample
    assert_allclose(sample.shares, weight / weight.mean())


def test_known_rows_are_sampled_apart():
    labels = np.full(600, -1)
    labels[[17, 300, 599]] = [2, 0, 2]
    known = weighted_profile(blobs(9), np.ones(600), 5, labels=labels).known
    assert_array_equal(np.sort(known.rows), [17, 300, 599])
    assert_array_equal(known.labels[np.argsort(known.rows)], [2, 0, 2])
