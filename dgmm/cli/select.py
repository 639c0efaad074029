"""``dgmm select``: rows in, the best of many mixtures out, a table, and the JSON line."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from dgmm.cli.engines import engine_of
from dgmm.cli.fitting import conclude, followed, out_option
from dgmm.cli.opening import open_rows
from dgmm.cli.options import (
    Talk,
    checkpoint_options,
    data_options,
    engine_options,
    estimator_options,
    label_option,
    talk_options,
    variant_options,
    weight_option,
)
from dgmm.cli.output import print_line, skipped
from dgmm.cli.places import check_outputs
from dgmm.cli.values import component_counts

if TYPE_CHECKING:
    from dgmm.selection import Selection

__all__ = ["select"]

_CRITERIA = ["bic", "aic", "icl", "heldout"]

# A log has no width of its own.
_LOG_WIDTH = 120


@click.command()
@click.argument("data")
@click.option(
    "-k",
    "--n-components",
    type=component_counts,
    metavar="COUNTS",
    default="1:10",
    show_default=True,
    help="Numbers of components to try: 1:10 (both ends included), 2,4,8 or both.",
)
@click.option(
    "--covariance-type",
    "covariance_types",
    multiple=True,
    default=["full"],
    show_default=True,
    help="A family to try; give it once for each.",
)
@click.option("--criterion", type=click.Choice(_CRITERIA), default="bic", show_default=True)
@click.option(
    "--holdout",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the rows to score on, with --criterion heldout.",
)
@weight_option
@label_option
@estimator_options
@variant_options
@out_option("The model file to write the best to.")
@data_options
@engine_options
@checkpoint_options
@talk_options
@click.pass_obj
def select(talk: Talk, /, **options: Any) -> None:
    """Fit mixtures of several sizes and families to DATA and write the best to a model file.

    All of them share every pass over DATA, which is what "dgmm fit" takes. A table of them goes
    to standard error; the last line on standard output is one JSON object. The criteria are those
    of the likelihood, without priors; with --labels, that of rows and known labels together.
    """
    started = time.perf_counter()
    check_outputs(options)
    found = _select(talk, options)
    model, best = found.best_, found.best_row
    model.save(options["out"])
    if not talk.quiet:
        _print_table(found)
    facts = {
        "criterion": found.criterion,
        "covariance_type": best.covariance_type,
        "n_components": best.n_components,
        "rows": model.record_.rows,
        **skipped(model.record_.skipped_rows, model.record_.skipped_blocks),
        "iterations": best.n_iter,
        "passes": model.record_.passes,
        "converged": best.converged,
        "log_likelihood": best.log_likelihood,
        **{name: getattr(best, name) for name in _CRITERIA},
        "candidates": found.table.to_dicts(),
    }
    conclude(talk, options["out"], model, facts, started)


def _select(talk: Talk, options: dict[str, Any]) -> Selection:
    from dgmm.selection import run_selection

    dataset = open_rows(options)
    names = ("n_components", "covariance_types", "criterion", "holdout")
    given = {name: options[name] for name in names}
    with engine_of(options) as engine, followed(talk, options, engine) as template:
        return run_selection(template, dataset, **given)


def _cell(value: float) -> str:
    """To a hundredth, where a criterion is in nats of all rows: its differences are what counts."""
    return f"{value:.6f}" if abs(value) < 100.0 else f"{value:.2f}"


def _print_table(found: Selection) -> None:
    from rich.console import Console
    from rich.table import Table

    criteria = [name for name in _CRITERIA if name != "heldout" or name == found.criterion]
    table = Table(title=f"by {found.criterion}; * marks the best")
    for name in (
        "",
        "family",
        "components",
        "parameters",
        "log-likelihood",
        *criteria,
        "iterations",
    ):
        table.add_column(name, justify="left" if name == "family" else "right")
    for row in found.table:
        mark = "*" if row is found.best_row else ""
        iterations = f"{row.n_iter}" if row.converged else f"{row.n_iter} (not converged)"
        numbers = [f"{row.log_likelihood:.6f}", *(_cell(getattr(row, name)) for name in criteria)]
        cells = [row.covariance_type, str(row.n_components), str(row.n_parameters)]
        table.add_row(
            mark,
            *cells,
            *numbers,
            "collapsed" if row.reason else iterations,
        )
    width = None if sys.stderr.isatty() else _LOG_WIDTH
    Console(file=sys.stderr, width=width).print(table)
    for row in found.table:
        # Those of the best are among the notes of its fit.
        if row.notes and row is not found.best_row:
            print_line(f"note: {row.covariance_type}, {row.n_components} components: {row.notes}")
