"""Held-out rows: the same ones whatever the storage is, never fitted to, scored in one pass."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm import shared_fit
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.holdout import FittedSide, Split
from dgmm.scalable_kmeans import CandidateRound
from tests.numerics.problems import SerialSession, profile_task


def masks(monkeypatch, x):
    """The rows that a selection holds out."""
    seen = []

    class Watched(Split):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            seen.append(self)

    monkeypatch.setattr(shared_fit, "Split", Watched)
    return lambda: seen[-1].held(Rows(x))


@pytest.mark.parametrize("name", family_names())
def test_the_criterion_is_the_score_of_the_rows_held_out(rows, monkeypatch, name) -> None:
    held = masks(monkeypatch, rows)
    found = dgmm.select_model(
        rows, [2, 3], covariance_types=name, criterion="heldout", random_state=1
    )
    mask = held()
    assert 0.15 < mask.mean() < 0.25
    best = found.best_row
    assert best is max(found.table, key=lambda row: row.heldout)
    assert_allclose(best.heldout, found.best_.score(rows[mask]), rtol=1e-9)
    assert_allclose(best.log_likelihood, found.best_.score(rows[~mask]), rtol=1e-9)
    assert_allclose(best.bic, found.best_.bic(rows[~mask]), rtol=1e-9)
    assert found.best_.record_.rows == (~mask).sum()
    assert found.best_.record_.passes == 2 + max(row.n_iter for row in found.table)


def test_the_fit_is_that_of_the_other_rows_alone(rows, monkeypatch) -> None:
    held = masks(monkeypatch, rows)
    # Another value in a row held out changes nothing of the fit.
    options = {"criterion": "heldout", "random_state": 1, "init_params": "k-means||"}
    first = dgmm.select_model(rows, [3], **options)
    moved = rows.copy()
    moved[held()] += 100.0
    second = dgmm.select_model(moved, [3], **options)
    assert_array_equal(first.best_.means_, second.best_.means_)
    assert second.best_row.heldout < first.best_row.heldout


@pytest.mark.parametrize("method", ["kmeans", "k-means||"])
def test_the_layout_of_the_storage_does_not_matter(rows, tmp_path, method) -> None:
    found = []
    for chunk in (100, 700):
        zarr.create_array(tmp_path / f"{chunk}.zarr", data=rows, chunks=(chunk, 3))
        dataset = dgmm.open_dataset(tmp_path / f"{chunk}.zarr", block_bytes=chunk * 24)
        found.append(
            dgmm.select_model(
                dataset, [3], criterion="heldout", random_state=0, init_params=method
            ).best_row
        )
    assert_allclose(found[0].heldout, found[1].heldout, rtol=1e-9)
    assert_allclose(found[0].log_likelihood, found[1].log_likelihood, rtol=1e-9)


def test_the_profile_and_its_sample_leave_out_the_rows_held_out() -> None:
    x = np.arange(4000.0).reshape(2000, 2)
    split = Split(seed=5, share=0.3)
    held = split.held(Rows(x))
    found = [
        FittedSide(SerialSession(x, n_parts), split).run(profile_task(x, size=200)).total
        for n_parts in (1, 7)
    ]
    for profile in found:
        assert profile.n_rows == (~held).sum()
        assert_allclose(profile.mean, x[~held].mean(axis=0))
        rows = np.sort(profile.sample.rows)
        assert len(rows) == 200
        assert not held[rows].any()
        assert_array_equal(np.sort(profile.sample.x[:, 0]), x[rows, 0])
    assert_array_equal(np.sort(found[0].sample.rows), np.sort(found[1].sample.rows))


def test_parts_without_a_fitted_row_are_neutral() -> None:
    x = np.arange(12.0).reshape(6, 2)
    split = Split(seed=1, share=0.6)
    held = split.held(Rows(x))
    assert 0 < held.sum() < 6
    profile = FittedSide(SerialSession(x, 6), split).run(profile_task(x)).total
    assert_allclose(profile.mean, x[~held].mean(axis=0))
    assert_allclose(profile.scatter, np.cov(x[~held].T, bias=True) * (~held).sum())


def test_rounds_of_starts_see_rows_at_their_own_positions() -> None:
    x = np.random.default_rng(0).normal(size=(500, 2))
    split = Split(seed=2, share=0.5)
    task = CandidateRound(np.zeros(2), (x[:1],), (20,), (7,))
    found = [FittedSide(SerialSession(x, n), split).run(task).total.draws[0] for n in (1, 9)]
    assert_array_equal(*(np.sort(one.rows) for one in found))
    assert not split.held(Rows(x))[found[0].rows].any()


def test_bad_rows_of_either_side_are_refused_by_number(rows) -> None:
    for row in range(10):
        bad = rows.copy()
        bad[row, 1] = np.nan
        with pytest.raises(dgmm.InvalidDataError, match=f"row {row}, feature 1"):
            dgmm.select_model(bad, [2], criterion="heldout", random_state=0)


def test_too_few_rows_on_a_side_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(dgmm.InvalidParameterError, match="are left to fit 6 components"):
        dgmm.select_model(x, [6], criterion="heldout", holdout=0.5, random_state=0)
    with pytest.raises(dgmm.InvalidParameterError, match="no row of 6 is held out"):
        dgmm.select_model(x, [2], criterion="heldout", holdout=1e-9, random_state=0)
