"""Lines of convergence and of criteria: the numbers of the record and of the table."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

import dgmm
from dgmm.covariance import family_names
from dgmm.plotting import plot_convergence, plot_criterion


def lines(axes) -> dict:
    return {line.get_label(): line for line in axes.get_lines()}


def fitted(x, **options) -> dgmm.GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some stop at max_iter
        return dgmm.GaussianMixture(**({"random_state": 0} | options)).fit(x)


@pytest.mark.parametrize("family", family_names())
def test_every_restart_has_its_line(rows, family) -> None:
    model = fitted(
        rows, n_components=4, covariance_type=family, n_init=3, init_params="random", max_iter=12
    )
    found = lines(plot_convergence(model))
    assert len(found) == 3
    for i, restart in enumerate(model.record_.restarts):
        (line,) = [line for name, line in found.items() if name.startswith(f"restart {i}")]
        assert_allclose(line.get_xdata(), np.arange(1, restart.n_iter + 1))
        assert_allclose(line.get_ydata(), restart.lower_bounds, rtol=0)
    (kept,) = [line for name, line in found.items() if name.endswith("kept")]
    assert list(kept.get_ydata()) == model.lower_bounds_


def test_restarts_that_were_given_up_say_so(rows) -> None:
    model = fitted(
        rows, n_components=4, n_init=6, halve_after=2, init_params="random", max_iter=40, tol=1e-8
    )
    given_up = [i for i, one in enumerate(model.record_.restarts) if one.status == "halved"]
    assert given_up
    found = lines(model.plot_convergence())
    dashed = {name for name, line in found.items() if line.get_linestyle() == "--"}
    assert dashed == {f"restart {i}, halved" for i in given_up}


def test_a_model_file_has_the_line_of_its_fit(model, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    loaded = dgmm.GaussianMixture.load(tmp_path / "m.safetensors")
    (line,) = plot_convergence(loaded).get_lines()
    assert list(line.get_ydata()) == model.lower_bounds_


def test_batches_have_a_line(rows) -> None:
    model = dgmm.GaussianMixture(2, random_state=0)
    for part in np.array_split(rows, 4):
        model.partial_fit(part)
    axes = model.plot_convergence()
    (line,) = axes.get_lines()
    assert list(line.get_ydata()) == model.lower_bounds_
    assert (len(line.get_ydata()), axes.get_xlabel()) == (4, "batch")


@pytest.fixture(scope="module")
def selection(rows) -> dgmm.Selection:
    return dgmm.select_model(
        rows, [3, 1, 2], covariance_types=family_names(), random_state=0, tol=0.05
    )


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl"])
def test_every_family_has_its_curve(selection, criterion) -> None:
    axes = selection.plot(criterion)
    found = lines(axes)
    assert set(found) == {*family_names(), "best"}
    for name in family_names():
        expected = {
            row.n_components: getattr(row, criterion)
            for row in selection.table
            if row.covariance_type == name
        }
        assert dict(found[name].get_xydata()) == expected
    best = selection.best_row
    assert_allclose(found["best"].get_xydata(), [[best.n_components, getattr(best, criterion)]])
    assert axes.get_ylabel() == f"{criterion} (lower is better)"
    assert plot_criterion(selection, criterion, ax=axes) is axes


def test_rows_held_out_are_the_default_where_they_chose(rows) -> None:
    found = dgmm.select_model(rows, [1, 2], criterion="heldout", random_state=0, tol=0.05)
    axes = found.plot()
    assert_allclose(lines(axes)["full"].get_ydata(), [row.heldout for row in found.table])
    assert axes.get_ylabel() == "heldout (higher is better)"


def test_candidates_that_collapsed_are_gaps() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(4, 2)), 50, axis=0)
    x[:100] += np.random.default_rng(1).normal(size=(100, 2))
    found = dgmm.select_model(x, [1, 5], reg_covar=0.0, random_state=0)
    (full, best) = found.plot().get_lines()
    assert_allclose(full.get_ydata(), [found.table[0].bic, np.nan])
    assert best.get_xdata().tolist() == [1]


@pytest.mark.parametrize("given", ["luck", "heldout"])
def test_criteria_that_are_not_there(selection, given) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=f"'{given}'"):
        selection.plot(given)
