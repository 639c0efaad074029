"""The options that commands share: where rows come from, where passes run, how much is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from dgmm.cli.cluster_options import cluster_options
from dgmm.cli.values import (
    column_or_place,
    held,
    interval,
    memory_size,
    numbers,
    size,
    temperatures,
)

__all__ = [
    "Talk",
    "check_out",
    "check_parent",
    "checkpoint_options",
    "data_options",
    "engine_options",
    "estimator_arguments",
    "estimator_options",
    "label_option",
    "out_path",
    "talk_options",
    "variant_options",
    "weight_option",
]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Talk:
    """How much a command says, and which it is; the object of click's context."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    command: click.Command | None = None


def weight_option(command: F) -> F:
    """What each row counts for."""
    return _with(
        command,
        click.option(
            "--sample-weight",
            type=column_or_place,
            metavar="COLUMN|PATH",
            help="A weight for each row: a column of DATA by number or name (then no feature), a "
            ".npy file or a Zarr array (path or URL).",
        ),
    )


def label_option(command: F) -> F:
    """What is known of the rows' components."""
    return _with(
        command,
        click.option(
            "--labels",
            metavar="COLUMN|PATH",
            help="The number of each row's component, -1 where it is unknown: a column of DATA by "
            "name (then no feature), a .npy file or a Zarr array (path or URL).",
        ),
    )


def data_options(command: F) -> F:
    """How rows are read."""
    return _with(
        command,
        click.option(
            "--block-bytes",
            type=size,
            metavar="SIZE",
            help="Bytes read at a time, e.g. 16MiB. Part of what makes a result repeatable.",
        ),
        click.option(
            "--on-missing-chunk",
            type=click.Choice(["raise", "fill"]),
            default="raise",
            show_default=True,
            help="A chunk that was never written: an error, or the store's fill value.",
        ),
        click.option(
            "--columns",
            metavar="NAMES",
            help="Columns of Parquet files, with commas between them. By default all.",
        ),
        click.option(
            "--on-bad-block",
            type=click.Choice(["raise", "skip"]),
            default="raise",
            show_default=True,
            help="A block that is damaged or incomplete: an error, or its rows left out.",
        ),
        click.option(
            "--on-bad-rows",
            type=click.Choice(["raise", "skip"]),
            default="raise",
            show_default=True,
            help="A row with NaN, infinity or null: an error, or left out (its label is -1, its "
            "score NaN).",
        ),
        click.option(
            "--max-skipped",
            type=click.FloatRange(min=0, max=1),
            default=0.01,
            show_default=True,
            help="Largest share of the rows that may be left out.",
        ),
    )


def engine_options(command: F) -> F:
    """Where passes run, and in how much memory."""
    return _with(
        cluster_options(command),
        click.option(
            "--engine",
            type=click.Choice(["local", "dask"]),
            help="Threads of this process (default), or a Dask cluster.",
        ),
        click.option(
            "--n-threads", type=click.IntRange(min=1), help="Threads of the local engine."
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="A running Dask scheduler, e.g. tls://host:8786. Implies --engine dask.",
        ),
        click.option(
            "--n-workers",
            type=click.IntRange(min=1),
            help="Start a Dask cluster of so many processes here. Implies --engine dask.",
        ),
        click.option(
            "--memory-limit",
            type=memory_size,
            metavar="SIZE",
            help="Memory of each process above what Python and its libraries take, e.g. 512MiB.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, cpu, cpu-compiled (numba), cuda or cuda:0, cuda:1, ...",
        ),
    )


# What becomes of the estimator's options: arguments of the same names (--seed has its own).
_ESTIMATOR_ARGUMENTS = (
    "tol",
    "reg_covar",
    "max_iter",
    "n_init",
    "halve_after",
    "acceleration",
    "empty_components",
    "init_params",
    "covariance_floor",
    "device",
    "dtype",
    "memory_limit",
    "algorithm",
    "annealing",
    "weight_concentration_prior",
    "mean_prior",
    "mean_precision_prior",
    "covariance_prior",
    "degrees_of_freedom_prior",
    "fixed",
)


def estimator_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the estimator, from the options that have a value."""
    given = {name: options[name] for name in _ESTIMATOR_ARGUMENTS if options[name] is not None}
    return {**given, **checkpoint_arguments(options), "random_state": options["seed"]}


def estimator_options(command: F) -> F:
    """How EM starts and stops."""
    return _with(
        command,
        click.option(
            "--n-init", type=click.IntRange(min=1), default=1, show_default=True, help="Restarts."
        ),
        click.option(
            "--halve-after",
            type=click.IntRange(min=1),
            help="Iterations after which the worse half of the restarts leaves, then half again "
            "after twice as many, and so on. By default all run to the end.",
        ),
        click.option(
            "--acceleration",
            type=click.Choice(["auto", "computing", "reading"]),
            help="Fewer passes: try points beyond EM's next one, by what a pass is bound by. "
            "--tol is then the estimated gap to the optimum.",
        ),
        click.option(
            "--empty-components",
            type=click.Choice(["keep", "reseed", "drop", "raise"]),
            default="keep",
            show_default=True,
            help="A component left without rows: kept as it was, started again where rows are "
            "explained worst, dropped, or its restart given up.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option(
            "--tol",
            type=click.FloatRange(min=0),
            default=1e-3,
            show_default=True,
            help="Stop when the lower bound per row changes by less.",
        ),
        click.option(
            "--reg-covar",
            type=click.FloatRange(min=0),
            default=1e-6,
            show_default=True,
            help="Added to the diagonal of covariances.",
        ),
        click.option(
            "--covariance-floor",
            type=click.FloatRange(min=0, min_open=True),
            help="Least eigenvalue of the covariances, in place of --reg-covar.",
        ),
        click.option("--max-iter", type=click.IntRange(min=0), default=100, show_default=True),
        click.option(
            "--init-params",
            default="kmeans",
            show_default=True,
            help="kmeans, k-means++, k-means||, random, random_from_data (points), maxdist or "
            "small_em.",
        ),
        click.option("--dtype", help="float32 or float64; by default that of the data."),
    )


def variant_options(command: F) -> F:
    """What else than the maximum likelihood is sought, and how."""
    return _with(
        command,
        click.option(
            "--algorithm",
            type=click.Choice(["em", "cem", "sem"]),
            default="em",
            show_default=True,
            help="Expectation-maximisation, classification EM or stochastic EM.",
        ),
        click.option(
            "--annealing",
            type=temperatures,
            metavar="TEMPERATURES",
            help="Of the first iterations, decreasing to 1: 4,2,1 or 8:1:20 (from 8 to 1 in 20).",
        ),
        *(
            click.option(f"--{name}", type=kind, metavar=metavar, help=text)
            for name, kind, metavar, text in _PRIORS
        ),
        click.option(
            "--fixed",
            multiple=True,
            callback=held,
            metavar="PARAMETER[:COMPONENTS]",
            help="What stays as the start has it: weights, means or covariances, or of some "
            "components only, means:0,3; give it once for each.",
        ),
    )


# Those that differ by component or feature are for Python, where they are arrays.
_PRIORS: tuple[tuple[str, Any, str, str], ...] = (
    (
        "weight-concentration-prior",
        float,
        "NUMBER",
        "α of a Dirichlet prior of the weights, ≥ 1 (> 0 with --empty-components drop).",
    ),
    ("mean-prior", numbers, "NUMBERS", "Where the means are expected: a number, or 0,0.5,... ."),
    ("mean-precision-prior", float, "NUMBER", "How many rows --mean-prior counts for."),
    ("covariance-prior", float, "NUMBER", "Ψ of covariances: that multiple of the identity."),
    ("degrees-of-freedom-prior", float, "NUMBER", "ν that goes with --covariance-prior."),
)


def checkpoint_options(command: F) -> F:
    """What a fit keeps of its state, and whether it goes on from it."""
    return _with(
        command,
        click.option(
            "--checkpoint",
            metavar="DIR",
            help="A directory or URL for checkpoints of this fit. SIGTERM, SIGINT and SIGUSR1 then "
            "finish the iteration and end with code 75; the same command goes on.",
        ),
        click.option(
            "--checkpoint-every",
            type=interval,
            default="60s",
            show_default=True,
            metavar="N|TIME",
            help="Iterations (10) or time (30s, 5min, 1h) between two checkpoints.",
        ),
        click.option(
            "--resume",
            type=click.Choice(["auto", "never", "must"]),
            default="auto",
            show_default=True,
            help="Go on from the newest checkpoint: if there is one, not at all, or only so.",
        ),
    )


def checkpoint_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of them: arguments of the estimator, none where no checkpoints are kept."""
    if options["checkpoint"] is not None:
        return {name: options[name] for name in ("checkpoint", "checkpoint_every", "resume")}
    if options["resume"] == "must":
        raise click.UsageError("--resume must needs --checkpoint, from which to resume")
    return {}


def talk_options(command: F) -> F:
    """How much is said."""
    return _with(
        command,
        _flag("quiet", "-q", "--quiet", help="Say nothing but warnings and errors."),
        _flag("verbose", "-v", "--verbose", help="Show every iteration, in lines."),
        _flag("debug", "--debug", help="Show the traceback of an error."),
    )


def check_parent(out: str | Path) -> None:
    """Refuse, before hours of work, an output in a directory that is not there."""
    if "://" not in str(out) and not Path(out).absolute().parent.is_dir():
        raise click.BadParameter(f"the directory {Path(out).parent} does not exist")


def check_out(path: Path) -> Path:
    """The same for a file."""
    check_parent(path)
    if path.is_dir():
        raise click.BadParameter(f"{path} is a directory; name a file in it")
    return path


def out_path(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A callback of click: :func:`check_out`, where a file is named."""
    del ctx, param
    return None if value is None else check_out(value)


def _flag(field: str, *names: str, help: str) -> Callable[[F], F]:  # noqa: A002 (click's name)
    """An option that sets a field of :class:`Talk`, wherever in the command it stands."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        del param
        if value:
            setattr(ctx.ensure_object(Talk), field, True)

    return click.option(
        *names, is_flag=True, is_eager=True, expose_value=False, callback=remember, help=help
    )


def _with(command: F, *options: Callable[[F], F]) -> F:
    # click lists options in reverse order of their application.
    for option in reversed(options):
        command = option(command)
    return command
