"""``python -m benchmarks``: measure in one run, print tables, write JSON and Markdown."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, get_args

import click

from benchmarks import (
    bits,
    cluster,
    machine,
    memory,
    out_of_core,
    peers,
    scaling,
    sharing,
    speed,
    targets,
)
from benchmarks.settings import Settings, Size
from benchmarks.tables import Table, insert_into

SUITES: dict[str, Any] = {
    "machine": machine,
    "speed": speed,
    "peers": peers,
    "scaling": scaling,
    "io": out_of_core,
    "dask": cluster,
    "sharing": sharing,
    "memory": memory,
    "bits": bits,
}


def _chosen(_context: object, _parameter: object, value: str) -> tuple[str, ...]:
    names = tuple(name for name in value.split(",") if name)
    unknown = [name for name in names if name not in SUITES]
    if unknown or not names:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(SUITES)}")
    return names


@click.command()
@click.option("--suites", default=",".join(SUITES), callback=_chosen, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
@click.option("--quick", "size", flag_value="quick", help="Whether it works, not how fast it is.")
@click.option("--complete", "size", flag_value="complete", help="The whole grid of sizes.")
@click.option("--peers-python", help="The interpreter of an environment that has the peers.")
@click.option(
    "--docs",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A page whose places for tables are filled in.",
)
def main(
    suites: tuple[str, ...],
    out: Path,
    size: str | None,
    peers_python: str | None,
    docs: Path | None,
) -> None:
    """Run suites (all by default), one after the other, in this one run."""
    out.mkdir(parents=True, exist_ok=True)
    assert size is None or size in get_args(Size)
    machine.describe()  # the load before anything else is done
    settings = Settings(size or "default", out, peers_python)  # type: ignore[arg-type]
    found: dict[str, Table] = {}
    seconds: dict[str, float] = {}
    for name in suites:
        started = time.perf_counter()
        for table in SUITES[name].run(settings):
            found[table.name] = table
            _show(table)
        seconds[name] = round(time.perf_counter() - started, 1)
        _write(out, settings, found, seconds)
    found["targets"] = targets.check(found)
    _show(found["targets"])
    _write(out, settings, found, seconds)
    click.echo("\nseconds: " + ", ".join(f"{name} {took:.0f}" for name, took in seconds.items()))
    if docs is not None:
        shown = [table for table in found.values() if table.is_shown]
        for name in insert_into(docs, shown):
            click.echo(f"{docs} has no place for {name}")


def _show(table: Table) -> None:
    if table.is_shown:
        click.echo(f"\n{table.title}\n\n{table.markdown()}")


def _write(
    out: Path, settings: Settings, found: dict[str, Table], seconds: dict[str, float]
) -> None:
    """After each suite, so that a run that is stopped leaves what it has."""
    results = {
        "machine": machine.describe(),
        "size": settings.size,
        "seconds": seconds,
        "tables": {
            name: {"title": table.title, "rows": table.rows, "note": table.note}
            for name, table in found.items()
        },
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    shown = [table for table in found.values() if table.is_shown]
    pages = (f"## {table.title}\n\n{table.markdown()}\n" for table in shown)
    (out / "results.md").write_text("\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
