"""From arguments to the rows and the model that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgmm.cli.engines import engine_of

if TYPE_CHECKING:
    from dgmm.data.dataset import Dataset

__all__ = ["open_model", "open_rows"]


def open_rows(options: Mapping[str, Any]) -> Dataset:
    """The dataset that DATA and its options name, with weights and labels where they are given."""
    from dgmm.data.opening import open_dataset

    names = ("on_missing_chunk", "on_bad_block", "on_bad_rows", "max_skipped")
    given = {name: options[name] for name in names}
    if options["columns"] is not None:
        given["columns"] = [name.strip() for name in options["columns"].split(",")]
    # Left out, the library's own default holds.
    if options["block_bytes"] is not None:
        given["block_bytes"] = options["block_bytes"]
    dataset = open_dataset(options["data"], **given)
    if options.get("sample_weight") is not None:
        dataset = dataset.with_weights(options["sample_weight"])
    if options.get("labels") is not None:
        dataset = dataset.with_labels(options["labels"])
    return dataset


@contextmanager
def open_model(path: Path, options: Mapping[str, Any]) -> Iterator[Any]:
    """The estimator in a model file, on the engine that the options ask for."""
    from dgmm.estimator import GaussianMixture

    model = GaussianMixture.load(path, device=options["device"])
    with engine_of(options) as engine:
        model.set_params(engine=engine, memory_limit=options["memory_limit"])
        yield model
