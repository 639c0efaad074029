"""Ellipses and contours, against eigenvalues, draws and the textbook's density."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import PolyQuadMesh, QuadMesh
from matplotlib.contour import QuadContourSet
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chi2

import dgmm
from dgmm.plotting import plot_components, plot_density
from tests.numerics.problems import dense
from tests.values.cases import FAMILIES, density, mixture_of

PAIRS = [(0, 1), (3, 1)]


@pytest.fixture(params=FAMILIES)
def mixture(request: pytest.FixtureRequest) -> dgmm.Mixture:
    return mixture_of(request.param, n_components=3, n_features=4, seed=3)


def covariance_of(ellipse, share) -> np.ndarray:
    """The covariance whose ellipse of that share this is."""
    turn = np.deg2rad(ellipse.angle)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    halves = np.array([ellipse.width, ellipse.height]) / 2
    return (axes * halves**2) @ axes.T / chi2.ppf(share, 2)


@pytest.mark.parametrize("pair", PAIRS)
def test_ellipses_have_the_axes_of_the_marginal_covariances(mixture, pair) -> None:
    axes = plot_components(mixture, features=pair, confidence=(0.3, 0.9))
    covariances = dense(mixture)[:, pair][:, :, pair]
    assert len(axes.patches) == 2 * mixture.n_components
    for index, ellipse in enumerate(axes.patches):
        component, share = divmod(index, 2)
        assert_allclose(ellipse.center, mixture.means[component, pair])
        found = covariance_of(ellipse, (0.3, 0.9)[share])
        assert_allclose(found, covariances[component], atol=1e-12)
        long = np.sqrt(np.linalg.eigvalsh(covariances[component])[-1])
        assert_allclose(ellipse.width, 2 * long * np.sqrt(chi2.ppf((0.3, 0.9)[share], 2)))
    crosses = np.array([line.get_xydata()[0] for line in axes.get_lines()])
    assert_allclose(crosses, mixture.means[:, pair])
    assert axes.get_xlabel() == f"feature {pair[0]}"


def test_an_ellipse_holds_its_share_of_the_component(mixture) -> None:
    axes = plot_components(mixture, features=(0, 2), confidence=0.7)
    for component, ellipse in enumerate(axes.patches):
        draws = mixture.sample(20_000, component=component, random_state=component)[0][:, [0, 2]]
        outline = ellipse.get_path().transformed(ellipse.get_patch_transform())
        # Three standard errors of a share, and what the outline's chords cut off.
        assert outline.contains_points(draws).mean() == pytest.approx(0.7, abs=0.011)


def test_the_axes_reach_over_the_ellipses() -> None:
    mixture = dgmm.Mixture([0.5, 0.5], [[0.0, 0.0], [100.0, 5.0]], [1.0, 4.0], "tied_diag")
    axes = plot_components(mixture, confidence=0.99)
    radius = np.sqrt(chi2.ppf(0.99, 2))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < -radius
    assert right > 100 + radius
    assert bottom < -2 * radius
    assert top > 5 + 2 * radius


def test_a_component_without_weight_is_not_drawn() -> None:
    mixture = dgmm.Mixture([1.0, 0.0], [[0.0, 0.0], [9e9, 9e9]], [1.0, 1.0], "spherical")
    assert len(plot_components(mixture, confidence=0.5).patches) == 1
    assert plot_density(mixture).get_xlim()[1] < 5


@pytest.mark.parametrize("n_components", [3, 15, 40])
def test_every_component_has_a_colour_of_its_own(n_components) -> None:
    means = np.arange(2.0 * n_components).reshape(-1, 2)
    weights = np.full(n_components, 1 / n_components)
    mixture = dgmm.Mixture(weights, means, 1.0, "tied_spherical")
    ellipses = plot_components(mixture, confidence=(0.5, 0.9)).patches
    found = [ellipse.get_edgecolor() for ellipse in ellipses]
    assert found[::2] == found[1::2]
    assert len(set(found)) == n_components


# ---------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("weighted", [False, True])
def test_rectangles_count_the_rows(model, rows, source, weighted) -> None:
    weight = np.arange(len(rows)) % 3 if weighted else None
    axes = model.plot_components(
        source, features=(2, 0), background="hist", bins=25, sample_weight=weight
    )
    (mesh,) = [one for one in axes.collections if isinstance(one, QuadMesh)]
    share = None if weight is None else weight / weight[weight > 0].mean()
    shown = rows if weight is None else rows[weight > 0]
    ends = [[shown[:, i].min(), shown[:, i].max()] for i in (2, 0)]
    counts, *_ = np.histogram2d(rows[:, 2], rows[:, 0], bins=25, weights=share, range=ends)
    assert_allclose(mesh.get_array().reshape(25, 25), counts.T, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_hexagons_hold_all_rows(model, rows, source, weighted) -> None:
    weight = np.arange(len(rows)) % 3 if weighted else None
    axes = model.plot_components(source, features=(0, 1), sample_weight=weight, bins=12)
    hexagons = axes.collections[0]
    total = len(rows) if weight is None else np.count_nonzero(weight)
    assert hexagons.get_array().sum() == pytest.approx(total)
    # matplotlib's own hexagons of the same rows.
    shown, share = (rows, None) if weight is None else (rows[weight > 0], weight[weight > 0])
    share = None if share is None else share / share.mean()
    reference = plt.subplots()[1].hexbin(
        shown[:, 0], shown[:, 1], C=share, reduce_C_function=np.sum, gridsize=12, mincnt=1
    )
    assert_allclose(hexagons.get_array(), reference.get_array())
    assert_allclose(hexagons.get_offsets(), reference.get_offsets())


def test_a_part_of_the_rows_is_shown(model, rows) -> None:
    counted = [
        model.plot_components(rows, features=(0, 1), subsample=size).collections[0].get_array()
        for size in (1, 400, 2000, 10**6)
    ]
    assert [counts.sum() for counts in counted] == [1, 400, 2000, 2000]


# ------------------------------------------------------------------------------------- density


@pytest.mark.parametrize("pair", PAIRS)
def test_contours_are_where_the_marginal_density_is(mixture, pair) -> None:
    levels = plot_density(mixture, features=pair).collections[0].levels
    marginal = dgmm.Mixture(
        mixture.weights, mixture.means[:, pair], dense(mixture)[:, pair][:, :, pair]
    )
    peak = density(marginal, marginal.means).max()
    wanted = np.array([0.1, 0.5]) * peak
    axes = plot_density(mixture, features=pair, levels=wanted, resolution=250)
    (contours,) = [one for one in axes.collections if isinstance(one, QuadContourSet)]
    assert_array_equal(contours.levels, wanted)
    for level, path in zip(wanted, contours.get_paths(), strict=True):
        assert len(path.vertices) > 50
        assert_allclose(density(marginal, path.vertices), level, rtol=1e-2)
    assert 0 < levels[1] < peak < levels[-1] + levels[1]


def test_a_mixture_is_seen_whole(mixture) -> None:
    axes = plot_density(mixture, features=(0, 1))
    draws = mixture.sample(20_000, random_state=0)[0][:, :2]
    inside = (draws >= [axes.get_xlim()[0], axes.get_ylim()[0]]) & (
        draws <= [axes.get_xlim()[1], axes.get_ylim()[1]]
    )
    assert inside.all(axis=1).mean() > 0.99


def test_contours_go_into_the_limits_of_what_is_there(model, rows) -> None:
    axes = model.plot_components(rows, features=(0, 1))
    limits = axes.get_xlim(), axes.get_ylim()
    assert model.plot_density(features=(0, 1), ax=axes, filled=True) is axes
    assert_allclose((axes.get_xlim(), axes.get_ylim()), limits)
    empty = plt.subplots()[1]
    model.plot_density(features=(0, 1), ax=empty)
    # Empty axes of matplotlib reach from 0 to 1.
    assert np.ptp(empty.get_xlim()) > 2


def test_nothing_to_draw_a_contour_of() -> None:
    mixture = dgmm.Mixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]], "diag")
    axes = plt.subplots()[1]
    axes.plot([1e6, 1e6 + 1], [0, 1])
    with pytest.raises(dgmm.InvalidParameterError, match="zero all over what the axes show"):
        plot_density(mixture, ax=axes)


def test_hexagons_are_not_taken_for_a_mesh(model, rows) -> None:
    # What the tests above look for are the classes that matplotlib draws with.
    axes = model.plot_components(rows, features=(0, 1))
    assert not any(isinstance(one, QuadMesh | PolyQuadMesh) for one in axes.collections)


def legend_of(axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize(("n_components", "named"), [(3, 3), (20, 20), (21, 0)])
def test_few_enough_components_are_named(n_components, named) -> None:
    means = np.random.default_rng(0).normal(size=(n_components, 2))
    mixture = dgmm.Mixture(
        np.full(n_components, 1 / n_components), means, np.ones(n_components), "spherical"
    )
    axes = plot_components(mixture, confidence=(0.5, 0.9))
    assert legend_of(axes) == [f"component {k}" for k in range(named)]
    if named:
        assert axes.get_legend().get_title().get_text() == "ellipses: 50%, 90%"


def test_numbers_along_the_axes_are_in_full() -> None:
    """However far out the rows are."""
    far = dgmm.Mixture([1.0], [[1e7, -1e7]], np.ones(1), "spherical")
    for axes in (plot_components(far), plot_density(far)):
        axes.figure.canvas.draw()
        for axis in (axes.xaxis, axes.yaxis):
            # A power of ten may stand apart, a number that all have in common may not.
            assert axis.get_major_formatter().get_offset() in ("", "1e7")
