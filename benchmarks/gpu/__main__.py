"""``python -m benchmarks.gpu``: checks, rates and peers on the GPU at hand."""

from __future__ import annotations

import gc
import importlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu import parts
from benchmarks.gpu.measuring import Deadline
from dgmm.devices import gpu_count, why_no_gpu

Part = Callable[[Any, float], list[dict[str, Any]]]

# What matters most comes first: where time runs out, the rest is left out and said to be.
PARTS: dict[str, Part] = {
    "device": parts.device,
    "roofline": parts.roofline,
    "billion": parts.billion,
    "fused": parts.fused,
    "wide": parts.wide,
    "streamed": parts.streamed,
    "checks": parts.checks,
    "peers": parts.peers,
    "tiles": parts.tiles,
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
@click.option("--parts", "names", default=",".join(PARTS), show_default=True)
@click.option("--scale", default=1.0, help="Of the numbers of rows; 0.001: whether it works.")
@click.option("--seconds", default=420.0, help="No part begins later than this.")
def main(out: Path, names: str, scale: float, seconds: float) -> None:
    """Measure, and write gpu.json and gpu.md after every part."""
    if not gpu_count():
        raise click.ClickException(
            f'{why_no_gpu()}: install the NVIDIA driver and pip install "dgmm[cuda12]" (or cuda13)'
        )
    xp = importlib.import_module("cupy")
    out.mkdir(parents=True, exist_ok=True)
    deadline, found = Deadline.after(seconds), {}
    for name in names.split(","):
        found[name] = guarded(PARTS[name], xp, scale, deadline)
        (out / "gpu.json").write_text(json.dumps(found, indent=1, default=float))
        (out / "gpu.md").write_text("\n".join(markdown(found)))
        print("\n".join(markdown({name: found[name]})), flush=True)


def guarded(part: Part, xp: Any, scale: float, deadline: Deadline) -> dict[str, Any]:
    """The rows of a part and its seconds; its error, if it fails, which stops no other."""
    if deadline.is_over:
        return {"error": "not begun: out of time", "rows": [], "seconds": 0.0}
    started = time.perf_counter()
    found: dict[str, Any] = {"rows": []}
    try:
        found["rows"] = part(xp, scale)
    except Exception as error:  # noqa: BLE001  the other parts have to go on
        found["error"] = f"{type(error).__name__}: {error}"
    # Arrays of a part that failed hang on its frames.
    gc.collect()
    xp.get_default_memory_pool().free_all_blocks()
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def markdown(found: dict[str, Any]) -> Iterable[str]:
    """A heading and a table for each part."""
    for name, part in found.items():
        yield f"## {name} ({part['seconds']} s)\n"
        if "error" in part:
            yield f"failed: {part['error']}\n"
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
        if columns:
            yield "| " + " | ".join(columns) + " |"
            yield "|" + "---|" * len(columns)
        for row in part["rows"]:
            yield "| " + " | ".join(_shown(row.get(key, "")) for key in columns) + " |"
        yield ""


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
