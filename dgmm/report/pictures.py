"""Components as pictures: patches where the rows are images, a shaded table where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.covariance import family_of
from dgmm.errors import InvalidParameterError
from dgmm.report.components import Component, Parameters, Scale, draw
from dgmm.report.images import diverging, grey
from dgmm.report.wording import decimal, percent

__all__ = ["Gallery", "MeansTable", "PatchTable", "gallery", "means_table", "patch_table"]

Array = np.ndarray[Any, Any]

_SAMPLES_EACH = 5
_FEATURES_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Gallery:
    """Rows to be shown as a wall of images.

    Parameters
    ----------
    title, caption : str
    rows : array of shape (n_rows, n_features)
    """

    title: str
    caption: str
    rows: Any


@dataclass(frozen=True)
class Wall:
    """A gallery as the page shows it."""

    title: str
    caption: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """An image, what it shows in words, and a line beneath it."""

    uri: str
    alt: str
    label: str = ""


@dataclass(frozen=True)
class PatchRow:
    """A component's line in the table of patches."""

    index: int
    weight: str
    mean: Picture
    axes: tuple[Picture, ...]
    samples: tuple[Picture, ...]


@dataclass(frozen=True)
class PatchTable:
    """Components as patches; without axes, the spread of each feature stands in their place."""

    rows: tuple[PatchRow, ...]
    n_axes: int
    n_samples: int
    has_axes: bool


@dataclass(frozen=True)
class Cell:
    """A mean: its text and how many standard deviations it lies from the overall mean."""

    text: str
    share: float
    is_above: bool


@dataclass(frozen=True)
class MeansTable:
    """Means of components, for all features or for those that tell the components apart best."""

    features: tuple[str, ...]
    rows: tuple[tuple[int, tuple[Cell, ...]], ...]
    n_features: int
    heat_map: str


def patch_table(
    model: Parameters, components: Sequence[Component], scale: Scale, shape: tuple[int, int]
) -> PatchTable:
    """Draw each component's mean, leading eigenvectors (or spread) and some samples."""
    rng = np.random.default_rng(0)
    has_axes = family_of(model.covariance_type).shape.uses_whitening()
    low, high = scale.range
    rows = []
    for one in components:
        name = f"component {one.index}"
        samples = draw(model, _SAMPLES_EACH, rng, one.index).reshape(-1, *shape)
        rows.append(
            PatchRow(
                one.index,
                percent(one.weight),
                Picture(grey(one.mean.reshape(shape), low, high), f"Mean of {name}"),
                _axes(one, shape) if has_axes else (_spread(one, scale, shape),),
                tuple(Picture(grey(s, low, high), f"Sample of {name}") for s in samples),
            )
        )
    return PatchTable(tuple(rows), len(rows[0].axes), _SAMPLES_EACH, has_axes)


def gallery(images: Gallery, scale: Scale, shape: tuple[int, int]) -> Wall:
    """Draw rows as images, on the grey scale of the mixture."""
    rows = np.asarray(images.rows, float).reshape(-1, *shape)
    return Wall(images.title, images.caption, tuple(grey(row, *scale.range) for row in rows))


def means_table(
    components: Sequence[Component], scale: Scale, names: Sequence[str] | None
) -> MeansTable:
    """Compare means, in standard deviations of the whole mixture."""
    n_features = len(scale.mean)
    if names is not None and len(names) != n_features:
        raise InvalidParameterError(
            f"{len(names)} feature names were given for {n_features} features"
        )
    names = names or [f"x{i}" for i in range(n_features)]
    means = np.array([one.mean for one in components])
    deviations = np.where(scale.deviations > 0, scale.deviations, 1.0)
    offsets = (means - scale.mean) / deviations
    between = np.array([one.weight for one in components]) @ offsets**2
    shown = np.sort(np.argsort(-between, kind="stable")[:_FEATURES_SHOWN])
    rows = tuple(
        (one.index, tuple(_cell(m, z) for m, z in zip(one.mean[shown], line[shown], strict=True)))
        for one, line in zip(components, offsets, strict=True)
    )
    is_whole = len(shown) == n_features
    heat_map = "" if is_whole else diverging(offsets, limit=2.0)
    return MeansTable(tuple(names[i] for i in shown), rows, n_features, heat_map)


def _axes(one: Component, shape: tuple[int, int]) -> tuple[Picture, ...]:
    return tuple(
        Picture(
            diverging(axis.reshape(shape)),
            f"Eigenvector {number} of component {one.index}, {percent(share)} of its variance",
            percent(share),
        )
        for number, (axis, share) in enumerate(zip(one.axes, one.shares, strict=False), start=1)
    )


def _spread(one: Component, scale: Scale, shape: tuple[int, int]) -> Picture:
    greatest = float(scale.deviations.max())
    uri = grey(one.deviations.reshape(shape), 0.0, greatest)
    return Picture(uri, f"Standard deviations of component {one.index}", decimal(one.spread, 3))


def _cell(mean: float, offset: float) -> Cell:
    # Two standard deviations get the full shade; fifths keep the style attributes short.
    share = round(min(abs(offset) / 2.0, 1.0) * 20) / 20
    return Cell(decimal(mean, 3), share, bool(offset > 0))
