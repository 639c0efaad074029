"""Batches spread over threads and workers where blocks are few: the bits of one thread."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm.covariance import family_names
from dgmm.data.arrays import open_array
from dgmm.data.dataset import Rows
from dgmm.engine.local import LocalEngine
from dgmm.expectation import BatchPass, plan_batch
from dgmm.guard import Level
from dgmm.kernels import FeatureKernel
from dgmm.passes import cut_kernels, run_batch
from dgmm.posterior import Stochastic
from tests.numerics.problems import blobs, context_of, random_mixture

X = blobs(21, n_rows=700, n_features=4, n_components=4)


class Noting:
    """An engine that remembers its sessions."""

    def __init__(self, engine) -> None:
        self.engine, self.sessions = engine, []

    def session(self, dataset, **options):
        self.sessions.append(self.engine.session(dataset, **options))
        return self.sessions[-1]

    @property
    def counters(self):
        return self.sessions[-1].counters


@pytest.fixture(autouse=True)
def _need_not_converge() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not converge")
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def engines(client):
    """One thread, which never has anything to spread over, and two that have."""
    return [Noting(one) for one in (LocalEngine(1), LocalEngine(5), dgmm.DaskEngine(client))]


@pytest.mark.parametrize("family", family_names())
def test_restarts_on_one_block_are_spread_and_keep_their_bits(client, family) -> None:
    dataset = open_array(X, 2**20)
    assert len(dataset.blocks) == 1
    fits, used = [], engines(client)
    for engine in used:
        gm = dgmm.GaussianMixture(
            9, covariance_type=family, n_init=9, max_iter=3, tol=0, random_state=0, engine=engine
        )
        fits.append(gm.fit(dataset))
    assert [engine.counters.slices for engine in used] == [1, 2, 2]
    for other in fits[1:]:
        assert other.record_.restarts == fits[0].record_.restarts
        assert_array_equal(other.means_, fits[0].means_)
        assert_array_equal(other.covariances_, fits[0].covariances_)


@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_candidates_are_spread_and_keep_their_bits(client, criterion) -> None:
    dataset, used = open_array(X, 2**20), engines(client)
    found = [
        dgmm.select_model(
            dataset, range(1, 6), covariance_types=family_names(), criterion=criterion,
            max_iter=3, random_state=0, engine=engine,
        )
        for engine in used
    ]  # fmt: skip
    assert used[0].counters.slices == 1
    assert min(engine.counters.slices for engine in used[1:]) > 1
    for other in found[1:]:
        # As text: NaN is not equal to NaN.
        assert str(other.table.rows) == str(found[0].table.rows)
        assert other.best_.record_.passes == found[0].best_.record_.passes


def batch_of(names, levels, n_components=5):
    rng = np.random.default_rng(4)
    batch = [random_mixture(rng, name, n_components, X.shape[1]) for name in names]
    return batch, plan_batch(batch, levels, context_of(X).frames)


@pytest.mark.parametrize("level", [Level.FLOAT32, Level.FLOAT64])
def test_smaller_stacks_hold_the_same_mixtures(level) -> None:
    batch, kernels = batch_of([*family_names()] * 4, [level] * 24)
    cut = list(cut_kernels(kernels, n_blocks=1))
    assert len(kernels) <= 2 < len(cut) <= 5
    assert max(kernel.n_stacked for kernel in cut) <= 45
    whole, pieces = BatchPass(kernels), BatchPass(tuple(cut))
    assert pieces.indices == whole.indices == list(range(len(batch)))
    ours = pieces.evaluate(Rows(X), pieces.workspace())
    theirs = whole.evaluate(Rows(X), whole.workspace())
    for one, other in zip(ours.members, theirs.members, strict=True):
        tolerance = 1e-4 if level is Level.FLOAT32 else 1e-10
        assert_allclose(one.moments, other.moments, rtol=tolerance, atol=tolerance * len(X))
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=tolerance)


def test_stacks_are_cut_for_few_blocks_alone() -> None:
    _, kernels = batch_of(["full"] * 40, [Level.FLOAT64] * 40)
    counts = [len(list(cut_kernels(kernels, n_blocks))) for n_blocks in (0, 1, 32, 64, 127, 128)]
    # 200 components: not below 32 of them in a stack, which leaves six.
    assert counts == [6, 6, 4, 2, 2, 1]
    _, centred = batch_of(["full"] * 9, [Level.CENTRED] * 9)
    assert tuple(cut_kernels(centred, 1)) == centred


@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
def test_slices_give_the_bits_of_the_whole_batch(n) -> None:
    names = [*family_names()] * 3
    levels = [Level.FLOAT32, Level.FLOAT64, Level.CENTRED] * 6
    _, kernels = batch_of(names, levels, 9)
    policies = tuple(Stochastic((i, 1)) for i in range(len(names)))
    task = BatchPass(tuple(cut_kernels(kernels, 1)), policies=policies)
    slices = task.slices(n)
    assert len(slices) == min(n, task.n_slices)
    assert sum(len(one.kernels) for one in slices) == len(task.kernels)
    found = task.join(slices, [one.evaluate(Rows(X), one.workspace()) for one in slices])
    expected = task.evaluate(Rows(X), task.workspace())
    for one, other in zip(found.members, expected.members, strict=True):
        assert_array_equal(one.moments, other.moments)
        assert one.log_likelihood == other.log_likelihood
        assert one.log_assignment == other.log_assignment
    assert sum(one.result_bytes for one in slices) == task.result_bytes
    assert max(one.workspace_bytes for one in slices) <= task.workspace_bytes


def test_slices_are_of_about_equal_work() -> None:
    _, kernels = batch_of(["full"] * 64, [Level.FLOAT64] * 64, 4)
    task = BatchPass(tuple(cut_kernels(kernels, 1)))
    stacked = [sum(k.n_stacked for k in one.kernels) for one in task.slices(4)]
    assert all(isinstance(kernel, FeatureKernel) for kernel in task.kernels)
    assert stacked == [64, 64, 64, 64]


def test_a_batch_of_one_is_not_spread() -> None:
    batch, kernels = batch_of(["full"], [Level.FLOAT64])
    with LocalEngine(4).session(open_array(X, 2**20)) as session:
        run_batch(session, kernels, batch)
        assert session.counters.slices == 1
