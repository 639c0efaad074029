"""``python -m benchmarks [SUITE ...]``: measure, print tables, write JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks import bits, machine, memory, sharing, speed
from benchmarks.tables import markdown

SUITES = {"speed": speed, "memory": memory, "bits": bits, "sharing": sharing}


@click.command()
@click.argument("suites", nargs=-1, type=click.Choice(tuple(SUITES)))
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
@click.option("--quick", is_flag=True, help="Small sizes: whether it works, not how fast it is.")
def main(suites: tuple[str, ...], out: Path, quick: bool) -> None:
    """Run the suites (all by default), one after the other, in this one run."""
    out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine.describe()}
    for name in suites or tuple(SUITES):
        rows = SUITES[name].run(quick=quick)
        results[name] = rows
        table = markdown(rows)
        (out / f"{name}.md").write_text(f"{SUITES[name].TITLE}\n\n{table}\n", encoding="utf-8")
        click.echo(f"\n{SUITES[name].TITLE}\n\n{table}")
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
