"""``dgmm fit``: rows in, a model file out, and the JSON line."""

from __future__ import annotations

import time
from pathlib import Path
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
    out_path,
    talk_options,
    variant_options,
    weight_option,
)
from dgmm.cli.output import skipped
from dgmm.cli.places import check_outputs

if TYPE_CHECKING:
    from dgmm.data.dataset import Dataset

__all__ = ["fit"]


@click.command()
@click.argument("data")
@click.option(
    "-k",
    "--n-components",
    type=click.IntRange(min=1),
    help="Needed unless --start says how many.",
)
@click.option(
    "--covariance-type",
    help="full (by default, or that of --start), diag, spherical, tied (tied_full), tied_diag or "
    "tied_spherical.",
)
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="A model file whose weights, means and covariances to start from.",
)
@weight_option
@label_option
@estimator_options
@variant_options
@out_option("The model file to write.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    callback=out_path,
    help='An HTML page about the fit to write; needs pip install "dgmm[report]".',
)
@data_options
@engine_options
@checkpoint_options
@talk_options
@click.pass_obj
def fit(talk: Talk, /, **options: Any) -> None:
    """Fit a mixture of Gaussians to DATA and write it to a model file.

    DATA is a .npy file, or the path or URL of a Zarr array, of shape (rows, features), or of
    Parquet files: one, a folder of them, or a pattern. The last
    line on standard output is one JSON object; its passes count the one that measures the
    log-likelihood (per row) and the BIC of the final model. Its peak_memory is that of this
    process: on a Dask cluster, what workers take is not in it. A model file that is there already
    is replaced.
    """
    started = time.perf_counter()
    check_outputs(options)
    if options["report"] is not None:
        # Now, and not after hours: this is where a missing jinja2 shows.
        import dgmm.report  # noqa: F401
    model, evaluation = _fit(talk, options)
    model.save(options["out"])
    if options["report"] is not None:
        from dgmm.report import write_report

        write_report(options["report"], model, evaluation=evaluation)
    facts = {
        "rows": evaluation.rows,
        **skipped(evaluation.skipped_rows, model.record_.skipped_blocks),
        "iterations": model.n_iter_,
        "passes": model.record_.passes + 1,
        "converged": model.converged_,
        "log_likelihood": evaluation.log_likelihood,
        "bic": evaluation.bic,
    }
    conclude(talk, options["out"], model, facts, started)


def _fit(talk: Talk, options: dict[str, Any]) -> tuple[Any, Any]:
    """The fitted estimator, and the evaluation of its final parameters on the same rows."""
    given = _asked(options) if options["start"] is None else None
    dataset = open_rows(options)
    given = given or _started(options, dataset)
    with engine_of(options) as engine:
        with followed(talk, options, engine, **given) as model:
            model.fit(dataset)
        return model, model.evaluate(dataset)


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    if options["n_components"] is None:
        raise click.UsageError("Missing option '-k' / '--n-components'.")
    covariance_type = options["covariance_type"] or "full"
    return {"n_components": options["n_components"], "covariance_type": covariance_type}


def _started(options: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Arguments of a fit that starts from the mixture in a model file."""
    from dgmm.columns import check_columns
    from dgmm.covariance import family_of
    from dgmm.estimator import GaussianMixture

    model = GaussianMixture.load(options["start"])
    # Columns in another order would start the fit elsewhere without a word.
    check_columns(model, dataset)
    mixture = model.mixture_
    family = options["covariance_type"] and family_of(options["covariance_type"]).name
    asked = {"n_components": options["n_components"], "covariance_type": family}
    found = {name: getattr(mixture, name) for name in asked}
    for name, value in asked.items():
        if value is not None and value != found[name]:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} {value}, and {options['start']} has {found[name]}; leave out {flag}, or "
                "start from another model"
            )
    starts = ("weights", "means", "covariances")
    return found | {f"{name}_init": getattr(mixture, name) for name in starts}
