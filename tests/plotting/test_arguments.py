"""What cannot be drawn is refused by name, before a row is read; what is named is labelled."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.mixture import GaussianMixture as Reference

import dgmm
from dgmm import plotting
from tests.values.cases import mixture_of

MIXTURE = mixture_of("full", n_features=4)
FLAT = dgmm.Mixture([1.0], [[0.0]], [1.0], "tied_diag")
NAMED = dgmm.Mixture([1.0], [[0.0, 1.0, 2.0]], 1.0, "tied_spherical", ["a", "b", "c"])
BROKEN = dgmm.Mixture([0.5, 0.5], np.zeros((2, 2)), [np.eye(2), -np.eye(2)])
X = np.random.default_rng(0).normal(size=(50, 4))


def points(model, **options):
    return plotting.plot_responsibilities(model, X, kind="points", **options)


SHOW_TWO = [plotting.plot_components, plotting.plot_density, points]


@pytest.mark.parametrize("plot", SHOW_TWO)
@pytest.mark.parametrize(
    ("model", "features", "message"),
    [
        (MIXTURE, None, "4 features and a plot shows two: pass features"),
        (MIXTURE, (0, 4), "feature 4 is not known: the mixture has 4 features"),
        (MIXTURE, (-5, 1), "feature -5 is not known"),
        (MIXTURE, (1, 1), "name one of them twice"),
        (MIXTURE, (3, -1), "name one of them twice"),
        (MIXTURE, 2, "shows two, so pass a pair"),
        (MIXTURE, (0, 1, 2), "shows two, so pass a pair"),
        (MIXTURE, (), "no features given"),
        (MIXTURE, (0.0, 1), "neither an index nor a name"),
        (MIXTURE, ("a", "b"), "'a' is not known: the mixture has no names"),
        (NAMED, ("a", "d"), "'d' is not known: the mixture has a, b, c"),
        (NAMED, ("a", 0), "name one of them twice"),
        (FLAT, None, "one feature; this plot shows two"),
        (FLAT, (0, 0), "one feature; this plot shows two"),
        (BROKEN, None, "component 1 is not positive definite"),
    ],
)
def test_features_that_cannot_be_shown(plot, model, features, message) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        plot(model, features=features)


@pytest.mark.parametrize(
    ("plot", "options", "message"),
    [
        ("components", {"confidence": 1.0}, "confidence=1.0"),
        ("components", {"confidence": (0.5, 0.0)}, "strictly between 0 and 1"),
        ("components", {"confidence": "0.5"}, "strictly between 0 and 1"),
        ("components", {"confidence": []}, "confidence is empty"),
        ("components", {"ax": 3}, r"ax=3; it must be one matplotlib\.axes\.Axes"),
        ("components", {"background": "photograph"}, "'photograph' is not known; use one of 'hex"),
        ("components", {"bins": 0}, "bins=0; it must be an integer of at least 1"),
        ("components", {"subsample": 0}, "subsample=0; it must be an integer of at least 1"),
        ("components", {"subsample": 0.5}, "subsample=0.5"),
        ("components", {"random_state": -1}, "random_state=-1"),
        ("responsibilities", {"kind": "pie"}, "kind='pie' is not known"),
        ("responsibilities", {"kind": "bars", "features": (0, 1)}, "bars show no features"),
    ],
)
def test_arguments_out_of_range(plot, options, message) -> None:
    options = ({"features": (0, 1)} if plot == "components" else {}) | options
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        getattr(plotting, f"plot_{plot}")(MIXTURE, X, **options)
    assert not plt.get_fignums()


@pytest.mark.parametrize("levels", [0, 2.5, True, [], [0.2, 0.1], [np.nan], "many", ["a"], [[1.0]]])
def test_levels_that_are_none(levels) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="levels="):
        plotting.plot_density(MIXTURE, features=(0, 1), levels=levels)


def test_a_grid_has_two_points() -> None:
    with pytest.raises(dgmm.InvalidParameterError, match="resolution=1;"):
        plotting.plot_density(MIXTURE, features=(0, 1), resolution=1)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[:, :3], dgmm.InvalidDataError, "3 features, and the mixture has 4"),
        (X[:0], dgmm.InvalidDataError, "no rows"),
        (X.astype(str), dgmm.InvalidDtypeError, "not a real number"),
        (np.where(X[7, 1] == X, np.nan, X), dgmm.InvalidDataError, "row 7, feature 1 is nan"),
        ("nowhere.zarr", dgmm.SourceError, "nowhere.zarr"),
    ],
)
@pytest.mark.parametrize("plot", [plotting.plot_components, plotting.plot_responsibilities])
def test_rows_that_cannot_be_shown(plot, x, error, message) -> None:
    options = {"features": (0, 1)} if plot is plotting.plot_components else {}
    with pytest.raises(error, match=message):
        plot(MIXTURE, x, **options)
    assert not plt.get_fignums()


def test_weights_that_leave_nothing() -> None:
    with pytest.raises(dgmm.InvalidDataError, match="nothing is left to show"):
        plotting.plot_responsibilities(MIXTURE, X, sample_weight=np.zeros(50))


@pytest.mark.parametrize("name", ["components", "density", "responsibilities", "convergence"])
def test_what_is_not_fitted_cannot_be_drawn(name) -> None:
    plot = getattr(plotting, f"plot_{name}")
    rest = [X] if name == "responsibilities" else []
    with pytest.raises(dgmm.NotFittedError, match="not fitted yet"):
        plot(dgmm.GaussianMixture(), *rest)
    with pytest.raises(dgmm.InvalidParameterError, match=r"dgmm\.GaussianMixture"):
        plot(Reference(1).fit(X), *rest)


@pytest.mark.parametrize("model", [MIXTURE, dgmm.GaussianMixture(max_iter=0, means_init=X[:1])])
def test_convergence_is_that_of_iterations(model) -> None:
    model = model.fit(X) if hasattr(model, "fit") else model
    with pytest.raises(dgmm.InvalidParameterError, match=r"no iteration was done|Mixture is none"):
        plotting.plot_convergence(model)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    selection = dgmm.select_model(X, [1], random_state=0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for plot in (
        lambda: model.plot_components(X, features=(0, 1)),
        lambda: model.plot_density(features=(0, 1)),
        lambda: model.plot_responsibilities(X),
        model.plot_convergence,
        selection.plot,
    ):
        with pytest.raises(dgmm.MissingDependencyError, match=r"pip install 'dgmm\[plot\]'"):
            plot()


@pytest.mark.parametrize("path", sorted(Path(plotting.__file__).parent.glob("*.py")))
def test_importing_plots_needs_no_matplotlib(path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    spec = importlib.util.spec_from_file_location("_a_fresh_copy", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "_a_fresh_copy", module)
    spec.loader.exec_module(module)
    assert vars(module).get("__all__")


# ---------------------------------------------------------------------------------------- names


class Table:
    """The least that is read as a data frame."""

    def __init__(self, values: np.ndarray, columns: list[str]) -> None:
        self.values, self.columns = values, columns

    def to_numpy(self) -> np.ndarray:
        return self.values


def test_features_go_by_names_and_name_the_axes() -> None:
    table = Table(X[:, :3], ["a", "b", "c"])
    model = dgmm.GaussianMixture(2, random_state=0).fit(table)
    for axes in (
        model.plot_components(table, features=("c", "a")),
        model.plot_density(features=("c", 0)),
        model.plot_responsibilities(table, kind="points", features=(2, "a")),
        plotting.plot_components(NAMED, table, features=("c", "a")),
    ):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("c", "a")


@pytest.mark.parametrize("model", [NAMED, dgmm.GaussianMixture()])
def test_other_names_are_refused(model) -> None:
    if model is not NAMED:
        model.fit(Table(X[:, :3], ["a", "b", "c"]))
    with pytest.raises(dgmm.InvalidDataError, match="feature names should match"):
        plotting.plot_responsibilities(model, Table(X[:, :3], ["a", "c", "b"]))


def test_rows_without_names_are_warned_of_at_the_callers_line() -> None:
    model = dgmm.GaussianMixture(random_state=0).fit(Table(X[:, :3], ["a", "b", "c"]))
    for plot in (
        lambda: model.plot_components(X[:, :3], features=(0, 1)),
        lambda: plotting.plot_responsibilities(model, X[:, :3]),
    ):
        with pytest.warns(UserWarning, match="does not have valid feature names") as seen:
            plot()
        assert seen[0].filename == __file__


def test_drawing_on_given_axes_makes_no_figure() -> None:
    axes = plt.subplots()[1]
    before = plt.get_fignums()
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawn in (
            model.plot_components(X, features=(0, 1), ax=axes),
            model.plot_density(features=(0, 1), ax=axes),
            model.plot_responsibilities(X, ax=axes),
            model.plot_convergence(ax=axes),
        ):
            assert drawn is axes
    assert plt.get_fignums() == before
