"""``dgmm demo``: a fit of real image patches that do not fit in the memory allowed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from dgmm.cli.options import Talk, check_out, talk_options
from dgmm.cli.output import print_json, print_line
from dgmm.cli.progress import follow
from dgmm.cli.values import memory_size

__all__ = ["demo"]


def _checked(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """A callback of click: the size as it was written, if it is one."""
    del ctx, param
    memory_size(value)
    return value


@click.command()
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    default=Path("demo-report.html"),
    show_default=True,
    help="The page to write; the model is saved beside it, as .safetensors.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to keep the patches (about 1 GB); by default they are removed.",
)
@click.option(
    "--memory-limit",
    callback=_checked,
    metavar="SIZE",
    default="256MiB",
    show_default=True,
    help="Memory above what Python and its libraries take.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@talk_options
@click.pass_obj
def demo(talk: Talk, report: Path, directory: Path | None, memory_limit: str, seed: int) -> None:
    """Cut two photographs into a gigabyte of patches, fit them in 256 MiB, draw what was found."""
    from dgmm.demo import run_demo

    check_out(report)
    # Beside the report and not in the system's temporary folder, which may itself be memory.
    with (
        tempfile.TemporaryDirectory(prefix=".dgmm-demo-", dir=report.parent) as scratch,
        follow(100, quiet=talk.quiet, verbose=talk.verbose) as on_event,
    ):
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        record = run_demo(
            directory=directory or Path(scratch),
            report=report,
            memory_limit=memory_limit,
            seed=seed,
            on_event=on_event,
        )
    if not talk.quiet:
        print_line(f"the report is in {report}")
    print_json(record)
