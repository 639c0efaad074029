"""``dgmm fit``: rows in, a model file out, and the JSON line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from dgmm.cli.engines import open_engine
from dgmm.cli.opening import open_rows
from dgmm.cli.options import (
    ESTIMATOR_ARGUMENTS,
    Talk,
    checkpoint_arguments,
    checkpoint_options,
    data_options,
    engine_options,
    estimator_options,
    out_path,
    talk_options,
)
from dgmm.cli.output import print_json, print_line
from dgmm.cli.progress import follow
from dgmm.cli.signals import stoppable

__all__ = ["fit"]


@click.command()
@click.argument("data")
@click.option("-k", "--n-components", type=click.IntRange(min=1), required=True)
@click.option(
    "--covariance-type",
    default="full",
    show_default=True,
    help="full, diag, spherical, tied (tied_full), tied_diag or tied_spherical.",
)
@estimator_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    callback=out_path,
    help="The model file to write.",
)
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

    DATA is a .npy file, or the path or URL of a Zarr array, of shape (rows, features). The last
    line on standard output is one JSON object; its passes count the one that measures the
    log-likelihood (per row) and the BIC of the final model. Its peak_memory is that of this
    process: on a Dask cluster, what workers take is not in it.
    """
    started = time.perf_counter()
    if options["report"] is not None:
        # Now, and not after hours: this is where a missing jinja2 shows.
        import dgmm.report  # noqa: F401
    model, evaluation = _fit(talk, options)
    model.save(options["out"])
    if options["report"] is not None:
        from dgmm.report import write_report

        write_report(options["report"], model, evaluation=evaluation)
    if not talk.quiet:
        for note in model.record_.notes:
            print_line(f"note: {note}")
    print_json(
        {
            "model": str(options["out"]),
            "rows": evaluation.rows,
            "iterations": model.n_iter_,
            "passes": model.record_.passes + 1,
            "converged": model.converged_,
            "log_likelihood": evaluation.log_likelihood,
            "bic": evaluation.bic,
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory": model.record_.peak_memory,
        }
    )


def _fit(talk: Talk, options: dict[str, Any]) -> tuple[Any, Any]:
    """The fitted estimator, and the evaluation of its final parameters on the same rows."""
    dataset = open_rows(options)
    where = {key: options[key] for key in ("engine", "n_threads", "scheduler", "n_workers")}
    with open_engine(**where) as engine:
        model = _estimator(engine, options)
        with follow(options["max_iter"], quiet=talk.quiet, verbose=talk.verbose) as on_event:
            model._on_event = on_event
            with stoppable(model):
                model.fit(dataset)
        return model, model.evaluate(dataset)


def _estimator(engine: Any, options: dict[str, Any]) -> Any:
    from dgmm.estimator import GaussianMixture

    names = ("n_components", "covariance_type", *ESTIMATOR_ARGUMENTS)
    given = {name: options[name] for name in names}
    given |= checkpoint_arguments(options)
    return GaussianMixture(**given, random_state=options["seed"], engine=engine)
