"""The numbers of a report: its headline, and the facts of the data, the model and the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgmm.record import FitRecord, kept_restart
from dgmm.report.wording import count, decimal, duration, percent, plural
from dgmm.sizes import format_bytes, parse_bytes

__all__ = ["FactGroup", "Tile", "fact_groups", "headline", "subtitle"]


@dataclass(frozen=True)
class Tile:
    """A number that stands at the head of the page; ``share`` draws a meter of 0 to 1."""

    label: str
    value: str
    detail: str
    share: float | None = None


@dataclass(frozen=True)
class FactGroup:
    """Facts under a heading, as pairs of a name and a value."""

    title: str
    facts: tuple[tuple[str, str], ...]


def subtitle(model: Any, record: FitRecord | None) -> str:
    """What was fitted to what, in a sentence."""
    n_components, n_features = np.shape(model.means_)
    family = model.covariance_type.replace("_", " ")
    what = f"{plural(n_components, 'Gaussian component')} with {family} covariances"
    if record is None:
        return f"{what} over {plural(n_features, 'feature')}."
    rows = f"{plural(record.rows, 'row')} of {plural(n_features, 'feature')}"
    return f"{what}, fitted to {rows} in {plural(record.passes, 'pass')} over the data."


def headline(model: Any, record: FitRecord | None, evaluation: Any) -> tuple[Tile, ...]:
    """The numbers that people look for first."""
    tiles = [_fit_tile(model, evaluation)]
    if evaluation is not None:
        tiles.append(Tile("BIC", decimal(evaluation.bic), f"AIC {decimal(evaluation.aic)}"))
    ending = "converged" if model.converged_ else "stopped before converging"
    tiles.append(Tile("Iterations", count(model.n_iter_), ending))
    if record is not None:
        read = format_bytes(record.bytes_read)
        tiles.append(Tile("Time", duration(record.seconds), f"{read} read"))
        tiles.append(_memory_tile(model, record))
    return tuple(tiles)


def fact_groups(model: Any, record: FitRecord | None, evaluation: Any) -> tuple[FactGroup, ...]:
    """Everything worth writing down, in groups; facts that are not known are left out."""
    groups = {
        "Model": _model_facts(model),
        "Settings": _settings(model),
        "Run": {} if record is None else _run_facts(model, record),
        "Quality": _quality_facts(model, evaluation),
    }
    return tuple(
        FactGroup(title, tuple((name, value) for name, value in facts.items() if value))
        for title, facts in groups.items()
        if any(facts.values())
    )


def _fit_tile(model: Any, evaluation: Any) -> Tile:
    if evaluation is None:
        return Tile("Lower bound", decimal(float(model.lower_bound_), 6), "nats per row")
    return Tile("Log-likelihood", decimal(evaluation.log_likelihood, 6), "nats per row")


def _memory_tile(model: Any, record: FitRecord) -> Tile:
    peak, limit = format_bytes(record.peak_memory), _limit(model)
    if limit is None:
        return Tile("Peak memory", peak, "no limit asked for")
    share = record.peak_memory / limit
    return Tile("Peak memory", peak, f"{percent(share)} of {format_bytes(limit)}", min(share, 1.0))


def _model_facts(model: Any) -> Mapping[str, str]:
    n_components, n_features = np.shape(model.means_)
    return {
        "components": count(n_components),
        "features": count(n_features),
        "covariance family": model.covariance_type,
        "free parameters": count(model.n_parameters_),
    }


def _settings(model: Any) -> Mapping[str, str]:
    names = (
        "init_params",
        "n_init",
        "max_iter",
        "tol",
        "reg_covar",
        "acceleration",
        "empty_components",
        "random_state",
        "dtype",
    )
    values = {name: getattr(model, name, None) for name in names}
    return {name: "" if value is None else _setting(value) for name, value in values.items()}


def _setting(value: object) -> str:
    return decimal(value) if isinstance(value, float) else str(value)


def _run_facts(model: Any, record: FitRecord) -> Mapping[str, str]:
    limit = _limit(model)
    per_second = record.bytes_read / record.seconds if record.seconds else 0.0
    return {
        "rows": count(record.rows),
        "passes over the data": count(record.passes),
        "blocks read": count(record.block_reads),
        "bytes read": f"{format_bytes(record.bytes_read)} ({format_bytes(int(per_second))}/s)",
        "time": duration(record.seconds),
        "peak memory": format_bytes(record.peak_memory),
        "memory limit": "none" if limit is None else format_bytes(limit),
        "engine": record.engine,
        "device": record.device,
        **_acceleration(model, record),
    }


def _acceleration(model: Any, record: FitRecord) -> Mapping[str, str]:
    chosen = kept_restart(record.restarts, model.lower_bound_)
    gap = None if chosen is None else record.restarts[chosen].gap
    if gap is None:
        return {}
    return {
        "acceleration": f"{record.acceleration} is the bottleneck",
        "mixtures evaluated": count(record.evaluations),
        "estimated gap to the optimum": f"{decimal(gap)} nats per row",
    }


def _quality_facts(model: Any, evaluation: Any) -> Mapping[str, str]:
    facts = {"lower bound per row": decimal(float(model.lower_bound_), 8)}
    if evaluation is None:
        return facts
    return {
        "rows evaluated": count(evaluation.rows),
        "log-likelihood per row": decimal(evaluation.log_likelihood, 8),
        **facts,
        "BIC": decimal(evaluation.bic, 10),
        "AIC": decimal(evaluation.aic, 10),
    }


def _limit(model: Any) -> int | None:
    limit = getattr(model, "memory_limit", None)
    return None if limit is None else parse_bytes(limit)
