"""A fitted model as one HTML file that needs nothing else: no network, no scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError, MissingDependencyError

# Before the modules beside this one: they need markupsafe, which comes with jinja2.
try:
    from jinja2 import Environment, PackageLoader, StrictUndefined, Template
except ImportError as error:
    raise MissingDependencyError(
        'jinja2 is needed to write reports: pip install "dgmm[report]"'
    ) from error

from dgmm.report.components import Component, components_of, draw, scale_of
from dgmm.report.convergence import convergence_of, restart_rows
from dgmm.report.facts import fact_groups, headline, subtitle
from dgmm.report.pictures import Gallery, gallery, means_table, patch_table
from dgmm.report.wording import count, decimal, percent

__all__ = ["render_report", "write_report"]

_AXES_SHOWN = 8
_COMPONENTS_SHOWN = 32
_SAMPLES_SHOWN = 60


@dataclass(frozen=True)
class WeightRow:
    """A component's line in the table of weights."""

    index: int
    weight: str
    bar: float
    rows: str
    spread: str
    dimensions: str
    leading: str


def write_report(
    path: str | Path,
    model: Any,
    *,
    title: str = "Gaussian mixture",
    evaluation: Any = None,
    image_shape: tuple[int, int] | None = None,
    feature_names: Sequence[str] | None = None,
    extra: Sequence[Gallery] = (),
) -> Path:
    """Write a report of a fitted model as a single HTML file.

    Every number and picture comes from the model's parameters and from the record of its fit; the
    data is not read again.

    Parameters
    ----------
    path : str or Path
        The file to write; replaced if it exists.
    model : GaussianMixture
        Fitted. A model that was loaded from a file has no record of its fit, and gets a shorter
        report.
    title : str
    evaluation : object, optional
        What ``model.evaluate`` gave: ``log_likelihood`` (per row, in nats), ``bic``, ``aic`` and
        ``rows``. Without it the headline is the lower bound of the fit.
    image_shape : (int, int), optional
        Height and width, if a row is an image: means and eigenvectors are then drawn as images.
    feature_names : sequence of str, optional
        Names of the columns.
    extra : sequence of Gallery, optional
        Rows to show as images beside samples of the model; they need ``image_shape``.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InvalidParameterError
        If ``image_shape`` or ``feature_names`` do not fit the model's features.
    """
    path = Path(path)
    html = render_report(model, title, evaluation, image_shape, feature_names, extra)
    path.write_text(html, encoding="utf-8")
    return path


def render_report(
    model: Any,
    title: str,
    evaluation: Any,
    image_shape: tuple[int, int] | None,
    feature_names: Sequence[str] | None,
    extra: Sequence[Gallery],
) -> str:
    """The text of :func:`write_report`."""
    _check(model, image_shape, extra)
    components = components_of(model, n_axes=_AXES_SHOWN, most=_COMPONENTS_SHOWN)
    record = getattr(model, "record_", None)
    return _template().render(
        title=title,
        subtitle=subtitle(model, record),
        tiles=headline(model, record, evaluation),
        weights=_weight_rows(components, record),
        n_hidden=len(model.weights_) - len(components),
        convergence=convergence_of(model, record),
        restarts=restart_rows(model, record),
        groups=fact_groups(model, record, evaluation),
        notes=() if record is None else record.notes,
        **_pictures(model, components, image_shape, feature_names, extra),
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("dgmm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _check(model: Any, shape: tuple[int, int] | None, extra: Sequence[Gallery]) -> None:
    n_features = np.shape(model.means_)[1]
    if shape is None and extra:
        raise InvalidParameterError("rows can be shown as images only if image_shape is given")
    if shape is not None and math.prod(shape) != n_features:
        raise InvalidParameterError(
            f"image_shape={shape} does not hold the {n_features} features of a row; "
            "give a height and a width whose product is that"
        )


def _pictures(
    model: Any,
    components: Sequence[Component],
    shape: tuple[int, int] | None,
    names: Sequence[str] | None,
    extra: Sequence[Gallery],
) -> dict[str, Any]:
    scale = scale_of(model)
    if shape is None:
        means = means_table(components, scale, names)
        return {"patches": None, "walls": (), "means": means}
    samples = draw(model, _SAMPLES_SHOWN, np.random.default_rng(1))
    ours = Gallery("Drawn from the model", "Independent samples of the whole mixture.", samples)
    walls = tuple(gallery(one, scale, shape) for one in (*extra, ours))
    table = patch_table(model, components, scale, shape)
    return {"patches": table, "walls": walls, "means": None}


def _weight_rows(components: Sequence[Component], record: Any) -> tuple[WeightRow, ...]:
    most = max(one.weight for one in components)
    return tuple(
        WeightRow(
            one.index,
            percent(one.weight),
            round(100 * one.weight / most, 2),
            "" if record is None else count(one.weight * record.rows),
            decimal(one.spread, 3),
            decimal(one.effective_dimensions, 3),
            percent(float(one.shares[0])),
        )
        for one in components
    )
