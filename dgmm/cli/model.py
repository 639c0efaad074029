"""``dgmm sample`` and ``dgmm export``: what a model file alone gives, rows and an ONNX graph."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from dgmm.cli.options import check_parent, out_path, talk_options
from dgmm.cli.output import print_json
from dgmm.cli.places import check_spared, covers, place
from dgmm.cli.values import distances

__all__ = ["export", "sample"]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-n", "--n-samples", type=click.IntRange(min=1), required=True, help="Rows to draw.")
@click.option("--out", required=True, help="The Zarr array of rows to write (path or URL).")
@click.option("--labels-out", help="One more, for the component of each row.")
@click.option("--overwrite", is_flag=True, help="Replace the Zarr arrays that are there already.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--component", type=click.IntRange(min=0), help="Draw from this component alone.")
@click.option("--confidence", type=float, help="Inside the ellipsoids that hold this share.")
@click.option(
    "--std-range",
    type=distances,
    metavar="LEAST:MOST",
    help="Where the Mahalanobis distance is from 3 to 4 (3:4), or at least 3 (3:inf).",
)
@talk_options
def sample(model: Path, overwrite: bool, seed: int, **options: Any) -> None:
    """Draw rows from the mixture in a model file and write them to a Zarr array.

    Rows are streamed: they need not fit in memory. The same seed gives the same rows.
    """
    from dgmm.estimator import GaussianMixture

    started = time.perf_counter()
    outs = [options[name] for name in ("out", "labels_out") if options[name] is not None]
    for out in outs:
        check_parent(out)
        if overwrite:
            check_spared(out, model)
    if len(outs) == 2 and (covers(*outs) or covers(*reversed(outs))):
        raise click.UsageError("--out and --labels-out are one place, or one lies in the other")
    places = tuple(place(out, overwrite) for out in outs)
    estimator = GaussianMixture.load(model).set_params(random_state=seed)
    asked = {name: options[name] for name in ("component", "confidence", "std_range")}
    n_samples = options["n_samples"]
    estimator.sample(n_samples, **asked, out=places if len(places) == 2 else places[0])
    print_json(
        {
            "model": str(model),
            "out": options["out"],
            "labels_out": options["labels_out"],
            "rows": n_samples,
            "seconds": round(time.perf_counter() - started, 3),
        }
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    callback=out_path,
    help="The ONNX file to write; one that is there already is replaced.",
)
@talk_options
def export(model: Path, out: Path) -> None:
    """Write the mixture in a model file as an ONNX graph; needs pip install "dgmm[onnx]"."""
    from dgmm.estimator import GaussianMixture

    if covers(out, model):
        raise click.UsageError(f"--out would overwrite {model}, which is read; name another file")
    GaussianMixture.load(model).to_onnx(out)
    print_json({"model": str(model), "out": str(out), "format": "onnx"})
