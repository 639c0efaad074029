"""Restarts: one read for all, retired by halving, split where memory is short."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

import dgmm
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.em import Chain, best_chain
from dgmm.engine.base import Reduced
from dgmm.engine.local import LocalSession
from dgmm.errors import MemoryLimitError
from dgmm.expectation import BatchPass, plan_batch
from dgmm.guard import Level
from dgmm.halving import Halving, halving_of, projected
from dgmm.passes import run_batch
from tests.numerics.problems import SerialSession, blobs, context_of, random_mixture


def fit_in_least_memory(dataset, **options):
    """A fit under the smallest limit that it asks for."""
    limit = 30
    while True:
        try:
            model = dgmm.GaussianMixture(memory_limit=f"{limit}MiB", **options)
            return model.fit(dataset), limit
        except MemoryLimitError as error:
            needed = int(re.search(r"projected to need (\d+) MiB", str(error)).group(1))
            assert needed > limit
            limit = needed


@pytest.mark.filterwarnings("ignore:Best performing initialization")
def test_ten_restarts_cost_one_read_a_pass(tmp_path) -> None:
    # Blocks of 4 MiB: what the least limit leaves over holds none of them.
    x = blobs(3, n_rows=4 * 2**17, n_features=4, dtype="float32")
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(2**16, 4))
    dataset = dgmm.open_dataset(tmp_path / "x.zarr", block_bytes=4 * 2**20)
    assert len(dataset.blocks) == 2
    options = {"n_components": 3, "tol": 0.0, "max_iter": 3, "random_state": 0}
    options |= {"init_params": "random_from_data", "engine": dgmm.LocalEngine(1)}
    records = [fit_in_least_memory(dataset, n_init=n, **options)[0].record_ for n in (1, 10)]
    for record in records:
        assert record.passes == 4
        assert record.block_reads == record.passes * len(dataset.blocks)
    assert [len(record.restarts) for record in records] == [1, 10]


@pytest.mark.usefixtures("uncached")
@pytest.mark.filterwarnings("ignore:Best performing initialization")
def test_on_a_cluster_ten_restarts_cost_one_read_a_pass_too(dataset) -> None:
    with (
        # In this process, where nothing is kept between passes.
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for n_init in (1, 10):
            record = (
                dgmm.GaussianMixture(
                    3, n_init=n_init, tol=0, max_iter=3, random_state=0,
                    engine=dgmm.DaskEngine(client),
                )
                .fit(dataset)
                .record_
            )  # fmt: skip
            assert (record.passes, len(record.restarts)) == (4, n_init)
            assert record.block_reads == record.passes * len(dataset.blocks)


def test_the_memory_of_all_restarts_is_projected() -> None:
    x = blobs(4, n_features=6, n_components=2)
    context = context_of(x)
    mixture = random_mixture(np.random.default_rng(0), "full", 4, 6)
    sizes = []
    for n_init in (1, 500):
        kernels = plan_batch([mixture] * n_init, [Level.FLOAT64] * n_init, context.frames)
        task = BatchPass(kernels)
        total = task.evaluate(Rows(x), task.workspace())
        assert sum(one.nbytes for one in total.members) <= task.result_bytes
        sizes.append(task.result_bytes)
    assert sizes[1] == 500 * sizes[0]


def _least_limit(fit) -> str:
    """What the refusal of the smallest limit asks for."""
    with pytest.raises(dgmm.MemoryLimitError) as caught:
        fit("30MiB")
    return re.search(r"need (\d+ MiB)", str(caught.value))[1]


@pytest.mark.parametrize("name", family_names())
@pytest.mark.parametrize("n_init", [1, 30])
def test_what_is_asked_for_before_the_first_read_is_enough(
    name, n_init, tmp_path, monkeypatch
) -> None:
    x = np.random.default_rng(0).normal(size=(6000, 24)).astype(np.float32)
    zarr.create_array(tmp_path / "x", data=x, chunks=(1000, 24))

    def fit(limit):
        return dgmm.GaussianMixture(
            12, covariance_type=name, n_init=n_init, max_iter=2, tol=0, random_state=0,
            device="cpu", engine=dgmm.LocalEngine(1), memory_limit=limit,
        ).fit(tmp_path / "x")  # fmt: skip

    with monkeypatch.context() as patched:
        patched.setattr(LocalSession, "run", None)  # nothing is read
        limit = _least_limit(fit)
    assert fit(limit).n_iter_ == 2


def test_a_selection_asks_for_what_all_candidates_need(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(6000, 24)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)

    def fit(limit):
        return dgmm.select_model(
            tmp_path / "x.npy", [2, 40], covariance_types=("full", "diag"), criterion="heldout",
            max_iter=2, tol=0, random_state=0, device="cpu", memory_limit=limit,
        )  # fmt: skip

    assert fit(_least_limit(fit)).best_.fitted_


def test_workers_are_asked_before_they_read() -> None:
    x = np.random.default_rng(0).normal(size=(6000, 24)).astype(np.float32)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def fit(limit):
            return dgmm.GaussianMixture(
                12, n_init=30, max_iter=2, tol=0, random_state=0, device="cpu",
                engine=dgmm.DaskEngine(client), memory_limit=limit,
            ).fit(dgmm.open_dataset(x, block_bytes=96000))  # fmt: skip

        assert fit(_least_limit(fit)).n_iter_ == 2


class Tight(SerialSession):
    """Refuses passes whose results take more than ``limit`` bytes."""

    limit = 0

    def run(self, task, *, blocks=None, keep=None, again=False) -> Reduced:
        if task.result_bytes > self.limit:
            raise MemoryLimitError("too small")
        return super().run(task, blocks=blocks, keep=keep)


def many_kernels(x):
    rng = np.random.default_rng(1)
    levels = [Level.FLOAT32, Level.FLOAT64, Level.CENTRED] * 3
    names = ["full", "tied_diag", "diag"] * 3
    batch = [random_mixture(rng, name, 3, x.shape[1]) for name in names]
    return batch, plan_batch(batch, levels, context_of(x).frames)


def test_a_batch_too_large_for_memory_is_read_for_in_turns_and_has_the_same_bits() -> None:
    x = blobs(5)
    batch, kernels = many_kernels(x)
    whole, parts = SerialSession(x), Tight(x)
    parts.limit = max(BatchPass((kernel,)).result_bytes for kernel in kernels)
    expected = run_batch(whole, kernels, batch)
    found = run_batch(parts, kernels, batch)
    assert len(whole.members) == 1
    assert len(parts.members) > 1
    assert sum(parts.members) == len(batch)
    for one, other in zip(expected, found, strict=True):
        assert_array_equal(one.moments, other.moments)
        assert one.log_likelihood == other.log_likelihood


def test_a_kernel_that_fits_no_limit_is_an_error() -> None:
    x = blobs(5)
    batch, kernels = many_kernels(x)
    session = Tight(x)
    with pytest.raises(MemoryLimitError):
        run_batch(session, kernels, batch)
    assert session.members == []


# --------------------------------------------------------------------------------------- halving


def test_half_of_the_restarts_leaves_at_each_rung() -> None:
    halving = halving_of(3, [8])
    bounds = {i: (float(i),) for i in range(8)}
    out: set[int] = set()
    for iteration in range(1, 13):
        histories = [None if i in out else bounds[i] for i in range(8)]
        out |= set(halving.leaving(histories, iteration))
        expected = 8 if iteration < 3 else 4 if iteration < 6 else 2 if iteration < 12 else 1
        assert 8 - len(out) == expected
    assert out == set(range(7))


@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=4), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(1, 40),
)
def test_somebody_always_stays_and_the_order_of_groups_does_not_matter(lists, first, iteration):
    histories = [tuple(one) for one in lists]
    n = len(histories)
    leaving = halving_of(first, [n]).leaving(histories, iteration)
    assert len(leaving) < n
    # The same chains beside other groups fare the same.
    beside = Halving(first, (tuple(range(n, 2 * n)), tuple(range(n))))
    both = beside.leaving(histories * 2, iteration)
    assert set(both) == set(leaving) | {i + n for i in leaving}


def test_the_projection_is_the_limit_of_a_geometric_climb() -> None:
    climb = [-(0.8**t) for t in range(6)]
    assert projected(climb) == pytest.approx(0.0, abs=1e-12)
    assert projected([1.0]) == 1.0
    assert projected([1.0, 2.0, 1.5]) == 1.5


@pytest.mark.parametrize("first", [1, 2])
def test_annealed_iterations_do_not_count(first) -> None:
    rising = [tuple(float(i) for _ in range(40)) for i in range(4)]
    falling = [tuple(-b for b in history[:10]) + history[10:] for history in rising]
    halving = halving_of(first, [4])
    for iteration in range(1, 11):
        histories = [one[:iteration] for one in falling]
        assert halving.leaving(histories, iteration, n_annealed=10) == {}
    for iteration in range(11, 30):
        # One that ended among the annealed iterations has no bound to compare.
        histories = [falling[0][:5], *(one[:iteration] for one in falling[1:])]
        left = halving.leaving(histories, iteration, n_annealed=10)
        same = halving.leaving(
            [None, *(one[: iteration - 10] for one in rising[1:])], iteration - 10
        )
        assert set(left) == set(same)


@pytest.mark.filterwarnings("ignore:Best performing initialization")
@pytest.mark.parametrize("algorithm", ["em", "sem"])
@pytest.mark.parametrize("halve_after", [1, 2])
def test_nobody_is_halved_away_before_temperature_one(algorithm, halve_after) -> None:
    x = blobs(6, n_rows=600, n_components=6, reach=2.0)
    temperatures = [8.0, 4.0, 2.0, 1.5]
    model = dgmm.GaussianMixture(
        6, n_init=8, halve_after=halve_after, annealing=temperatures, algorithm=algorithm,
        init_params="random_from_data", tol=0.0, max_iter=20, random_state=0,
    ).fit(x)  # fmt: skip
    gone = [one.n_iter for one in model.record_.restarts if one.status == "halved"]
    counted = [len(temperatures) + halve_after * 2**i for i in range(3)]
    assert sorted(gone) == [counted[0]] * 4 + [counted[1]] * 2 + [counted[2]]


def test_a_slow_climber_outlives_a_fast_starter() -> None:
    slow = tuple(-3.0 + 0.2 * t for t in range(5))
    flat = (-2.0, -1.9, -1.89, -1.889, -1.8889)
    assert set(halving_of(5, [2]).leaving([slow, flat], 5)) == {1}


@pytest.mark.filterwarnings("ignore:Best performing initialization")
def test_halving_is_reported_and_leaves_fewer_evaluations() -> None:
    x = blobs(6, n_rows=2000, n_components=6, reach=2.0)
    options = {"n_init": 8, "init_params": "random", "tol": 1e-5, "random_state": 0}
    full = dgmm.GaussianMixture(6, **options).fit(x)
    halved = dgmm.GaussianMixture(6, halve_after=4, **options).fit(x)
    restarts = halved.record_.restarts
    out = [one for one in restarts if one.status == "halved"]
    assert 4 <= len(out) <= 7
    assert all("projected to reach" in one.reason for one in out)
    assert sum("projected to reach" in note for note in halved.record_.notes) == len(out)
    work = [sum(one.n_iter for one in model.record_.restarts) for model in (full, halved)]
    assert work[1] < 0.7 * work[0]
    # Those that stay are not touched by those that leave.
    for ours, theirs in zip(restarts, full.record_.restarts, strict=True):
        np.testing.assert_allclose(ours.lower_bounds, theirs.lower_bounds[: ours.n_iter], rtol=1e-9)
    again = dgmm.GaussianMixture(6, halve_after=4, **options).fit(x)
    assert_array_equal(again.means_, halved.means_)


def test_one_that_was_halved_wins_only_if_no_other_is_left() -> None:
    mixture = random_mixture(np.random.default_rng(0), "full", 2, 2)
    halved = Chain(mixture, Level.FLOAT64, lower_bound=-1.0, status="halved")
    done = Chain(mixture, Level.FLOAT64, lower_bound=-2.0, status="converged")
    retired = Chain(mixture, Level.FLOAT64, lower_bound=0.0, status="retired")
    assert best_chain([halved, done, retired]) is done
    assert best_chain([halved, retired]) is halved


def test_the_record_has_the_likelihood_of_the_restart_that_was_kept() -> None:
    """Which may have ended below one that was halved away."""
    model = dgmm.GaussianMixture(2, random_state=0).fit(blobs(0))
    (one,) = model.record_.restarts
    halved = replace(one, status="halved", lower_bound=one.lower_bound + 1.0, log_likelihood=9.0)
    record = replace(model.record_, restarts=(halved, one))
    assert record.log_likelihood == one.log_likelihood
    assert replace(record, restarts=(halved,)).log_likelihood == 9.0


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "4"])
def test_halve_after_is_a_positive_integer(value) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="halve_after"):
        dgmm.GaussianMixture(2, halve_after=value).fit(blobs(0))


@pytest.mark.parametrize("spread", ["covariances_init", "precisions_init"])
def test_restarts_that_would_all_be_the_same_are_one(spread: str) -> None:
    x = blobs(2, n_rows=400)
    start = {"weights_init": [0.5, 0.5], "means_init": x[[0, -1]], spread: np.ones(2)}
    options = {"covariance_type": "spherical", "random_state": 0, **start}
    one = dgmm.GaussianMixture(2, **options).fit(x)
    ten = dgmm.GaussianMixture(2, n_init=10, **options).fit(x)
    assert_array_equal(ten.means_, one.means_)
    assert len(ten.record_.restarts) == 1
    assert any("n_init=10" in note for note in ten.record_.notes)
    assert not any("n_init" in note for note in one.record_.notes)


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "sem"},
        {"annealing": [4.0, 2.0]},
        {"means_init": None, "init_params": "random"},
    ],
)
def test_restarts_of_which_each_draws_all_run(options: dict) -> None:
    x = blobs(2, n_rows=400)
    start = {"weights_init": [0.5, 0.5], "means_init": x[[0, -1]], "covariances_init": np.ones(2)}
    model = dgmm.GaussianMixture(
        2, covariance_type="spherical", n_init=3, max_iter=8, random_state=0, **start | options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        record = model.fit(x).record_
    assert len(record.restarts) == 3
    assert len({one.lower_bound for one in record.restarts}) > 1
