"""``dgmm inspect``: what a model file or a data source holds, without reading its rows."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgmm.cli.options import Talk, talk_options
from dgmm.cli.output import print_json, redact, strict
from dgmm.sizes import format_bytes

if TYPE_CHECKING:
    from dgmm.data.dataset import Dataset

__all__ = ["inspect"]


@click.command()
@click.argument("path")
@talk_options
@click.pass_obj
def inspect(talk: Talk, path: str) -> None:
    """Describe a model file or a data source: a table, and one JSON line."""
    from dgmm.storage import looks_like_model

    if looks_like_model(path):
        record, table = _model(Path(path))
    else:
        from dgmm.data.opening import open_dataset

        record, table = _data(path, open_dataset(path))
    if not talk.quiet:
        _print_table(path, table)
    print_json(record)


def _model(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    from dgmm.estimator import GaussianMixture
    from dgmm.storage import read_model

    tensors, facts = read_model(path)
    model = GaussianMixture.load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = {
        "model": str(path),
        "covariance_type": model.covariance_type,
        "n_components": len(model.weights_),
        "n_features": model.n_features_in_,
        "weights": model.weights_,
        "arrays": {name: [str(array.dtype), *array.shape] for name, array in tensors.items()},
        "facts": facts,
        "sha256": digest,
    }
    weights = sorted(model.weights_, reverse=True)
    table = {
        "family": model.covariance_type,
        "components": str(len(weights)),
        "features": str(model.n_features_in_),
        "weights, largest first": _joined([f"{weight:.4g}" for weight in weights]),
        "size": format_bytes(path.stat().st_size),
        # A file whose own checksum does not fit is not read at all.
        "checksum": f"verified; SHA-256 of the file {digest[:16]}",
    }
    return record, table | {f"fact: {key}": _short(value) for key, value in facts.items()}


def _data(path: str, dataset: Dataset) -> tuple[dict[str, Any], dict[str, str]]:
    from dgmm.data.stored_facts import stored_facts

    largest = max((block.nbytes for block in dataset.blocks), default=0)
    stored = stored_facts(dataset)
    record = {
        "data": path,
        "rows": dataset.n_rows,
        "n_features": dataset.n_features,
        "dtype": str(dataset.dtype),
        "bytes": dataset.nbytes,
        "blocks": len(dataset.blocks),
        "largest_block_bytes": largest,
        "fingerprint": dataset.fingerprint,
        **stored,
    }
    table = {
        "rows": f"{dataset.n_rows:,}",
        "features": str(dataset.n_features),
        "dtype": str(dataset.dtype),
        "size": format_bytes(dataset.nbytes),
        "blocks": f"{len(dataset.blocks):,}, up to {format_bytes(largest)}",
        "fingerprint": dataset.fingerprint[:16],
        **_storage_rows(stored),
    }
    return record, table


def _storage_rows(stored: Mapping[str, Any]) -> dict[str, str]:
    """What the table says of chunks and checksums."""
    rows = {"format": str(stored["format"])} if stored else {}
    for name in ("chunks", "shards"):
        if stored.get(name):
            rows[name] = " × ".join(f"{size:,}" for size in stored[name])
    if stored.get("codecs"):
        rows["codecs"] = ", ".join(stored["codecs"])
    if stored:
        rows["checksum"] = stored["checksum"] or "none: damage would go unnoticed"
    return rows


def _short(value: Any) -> str:
    """A fact in a few words; the JSON line has it whole."""
    if isinstance(value, Mapping):
        return _joined([f"{key} {_short(item)}" for key, item in value.items()])
    if isinstance(value, list):
        return _joined([_short(item) for item in value])
    return str(strict(value))


def _joined(words: list[str], limit: int = 8) -> str:
    more = [f"... ({len(words)})"] if len(words) > limit else []
    return ", ".join(words[:limit] + more)


def _print_table(title: str, rows: Mapping[str, str]) -> None:
    """A table on standard error; Text, because brackets would be read as styles."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(redact(title)), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(redact(value)))
    Console(file=sys.stderr).print(table)
