"""What ``dgmm fit`` and ``dgmm select`` share: an estimator to follow, and their last lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from dgmm.cli.options import Talk, estimator_arguments, out_path
from dgmm.cli.output import print_json, print_line
from dgmm.cli.progress import follow
from dgmm.cli.signals import stoppable

__all__ = ["conclude", "followed", "out_option"]

F = TypeVar("F", bound=Callable[..., Any])


def out_option(help: str) -> Callable[[F], F]:  # noqa: A002 (click's name)
    """Where the model goes."""
    return click.option(
        "--out", type=click.Path(path_type=Path), required=True, callback=out_path, help=help
    )


@contextmanager
def followed(
    talk: Talk, options: Mapping[str, Any], engine: Any, **arguments: Any
) -> Iterator[Any]:
    """The estimator that the options describe, whose progress is shown meanwhile."""
    from dgmm.estimator import GaussianMixture

    model = GaussianMixture(**estimator_arguments(options), **arguments, engine=engine)
    shown = follow(options["max_iter"], quiet=talk.quiet, verbose=talk.verbose)
    with shown as on_event, stoppable(model):
        model._on_event = on_event
        yield model


def conclude(talk: Talk, out: Path, model: Any, facts: Mapping[str, Any], started: float) -> None:
    """Say what a user should know of the fit, and print its JSON line."""
    if not talk.quiet:
        for note in model.record_.notes:
            print_line(f"note: {note}")
    print_json(
        {
            "model": str(out),
            **facts,
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory": model.record_.peak_memory,
        }
    )
