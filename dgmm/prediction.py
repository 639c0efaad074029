"""Applying a fitted mixture to rows: in memory, lazily on Dask, or streamed into a Zarr array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dgmm.answers import AnswerPass, Question, Regressed
from dgmm.data.dataset import Block, Dataset, Rows
from dgmm.data.device import like
from dgmm.data.skipping import Skipped, check_skipped
from dgmm.engine.blas import single_threaded_blas
from dgmm.engine.choice import engine_for
from dgmm.errors import InvalidDataError, InvalidParameterError
from dgmm.expectation import RowPass, plan_batch
from dgmm.guard import Frames, Level, first_level, safe_level
from dgmm.mixture import Mixture, frame_of
from dgmm.parameters import FitParameters, check_parameters
from dgmm.portable import portable_errors
from dgmm.stepwise import expect

__all__ = [
    "Evaluation",
    "answer_rows",
    "evaluate",
    "log_likelihood",
    "predict_rows",
    "regress_rows",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evaluation:
    """How well a mixture describes some rows.

    Parameters
    ----------
    rows : int
    log_likelihood : float
        Per row, in nats.
    bic, aic : float
        Lower is better (Schwarz 1978; Akaike 1974), with scikit-learn's sign.
    skipped_rows : int
        Bad rows among them that were left out.
    """

    rows: int
    log_likelihood: float
    bic: float
    aic: float
    skipped_rows: int = 0


@dataclass(frozen=True)
class SkipCount:
    """What is skipped (a task for :meth:`dgmm.engine.base.Session.run`)."""

    workspace_bytes: int = 0
    result_bytes: int = 16 * 2**10

    def workspace(self) -> None:
        return None

    def evaluate(self, rows: Rows, workspace: None) -> Skipped:
        return Skipped.of(rows)


def mixture_frames(mixture: Mixture) -> Frames:
    """Frames for rows of which nothing is known but the mixture."""
    return Frames(frame_of(mixture, "float64"), frame_of(mixture, "float32"))


def _level(mixture: Mixture, frames: Frames, dataset: Dataset, parameters: FitParameters) -> Level:
    device = parameters.device_for_once
    return safe_level(mixture, frames, first_level(dataset.dtype, parameters.dtype, device))


def log_likelihood(estimator: Any, dataset: Dataset) -> tuple[float, float, int]:
    """Total log-likelihood of the rows, in nats, their total weight, and how many were skipped."""
    parameters = check_parameters(estimator)
    mixture = estimator.mixture_
    frames = mixture_frames(mixture)
    level = _level(mixture, frames, dataset, parameters)
    engine = engine_for(estimator.engine, dataset)
    skipped = Skipped()
    with engine.session(dataset, memory_limit=parameters.memory_limit) as session:
        if dataset.skipping is not None:
            skipped = session.run(SkipCount()).total
            check_skipped(dataset, skipped)
        statistics = expect(session, frames, mixture, level, parameters.device_for_once)
    if not statistics.weight > 0.0:
        raise InvalidDataError("sample_weight is zero for every row; nothing is left to score")
    return statistics.log_likelihood, statistics.weight, skipped.rows


def evaluate(estimator: Any, dataset: Dataset) -> Evaluation:
    """How well a fitted estimator describes the rows, in one pass over them."""
    total, weight, skipped = log_likelihood(estimator, dataset)
    n_parameters = estimator.n_parameters_
    return Evaluation(
        rows=dataset.n_rows,
        log_likelihood=total / weight,
        bic=-2.0 * total + n_parameters * float(np.log(weight)),
        aic=-2.0 * total + 2.0 * n_parameters,
        skipped_rows=skipped,
    )


def predict_rows(estimator: Any, dataset: Dataset, output: str, out: Any) -> Any:
    """Values of every row, in the kind of array that the caller works with.

    Parameters
    ----------
    estimator : GaussianMixture
        Fitted.
    dataset : Dataset
    output : {"log_density", "outlier_score", "responsibilities", "labels"}
    out : path, URL, Zarr array or None
    """
    parameters = check_parameters(estimator)
    mixture = estimator.mixture_
    frames = mixture_frames(mixture)
    level = _level(mixture, frames, dataset, parameters)
    with single_threaded_blas():
        (kernel,) = plan_batch([mixture], [level], frames)
        (safest,) = plan_batch([mixture], [Level.CENTRED], frames)
    device = parameters.device_for_once
    task = RowPass(kernel, output, estimator._face_dtype, device, fallback=safest)
    return _delivered(estimator, task, dataset, out, parameters.memory_limit)


def answer_rows(estimator: Any, dataset: Dataset, question: Question, out: Any) -> Any:
    """Answers of the mixture for every row, in the kind of array that the caller works with.

    Parameters
    ----------
    estimator : GaussianMixture
        Fitted.
    dataset : Dataset
    question : Question
    out : path, URL, Zarr array or None
    """
    parameters = check_parameters(estimator)
    task = AnswerPass(question, estimator._face_dtype)
    return _delivered(estimator, task, dataset, out, parameters.memory_limit)


def regress_rows(estimator: Any, dataset: Dataset, question: Regressed, out: Any) -> Any:
    """Expected values of every row, and their covariances where they are asked for.

    Parameters
    ----------
    estimator : GaussianMixture
        Fitted.
    dataset : Dataset
        Of the given features.
    question : Regressed
    out : path, URL, Zarr array, a pair of them, or None
    """
    if not question.with_covariance:
        return answer_rows(estimator, dataset, question, out)
    if out is None:
        both = answer_rows(estimator, dataset, question, None)
        return both[:, :, 0], both[:, :, 1:]
    if not isinstance(out, tuple) or len(out) != 2:
        raise InvalidParameterError(
            "return_covariance=True gives two arrays; out must be a pair of places, for expected "
            "values and for covariances"
        )
    parameters = check_parameters(estimator)
    task = AnswerPass(question, estimator._face_dtype)
    n, a = dataset.n_rows, question.regression.n_targets
    from dgmm.data.sink import open_sink

    engine = engine_for(estimator.engine, dataset)
    with (
        engine.session(dataset, memory_limit=parameters.memory_limit) as session,
        open_sink(out[0], (n, a), task.value_dtype) as means,
        open_sink(out[1], (n, a, a), task.value_dtype) as covariances,
    ):
        buffers = means.buffer_bytes + covariances.buffer_bytes
        for _, part in session.stream(task, consumer_bytes=buffers):
            means.write(part[:, :, 0])
            covariances.write(part[:, :, 1:])
        return means.array, covariances.array


def _delivered(
    estimator: Any, task: Any, dataset: Dataset, out: Any, memory_limit: int | None
) -> Any:
    if out is None and not _in_memory(dataset):
        return _lazy(task, dataset)
    return _streamed(estimator, task, dataset, out, memory_limit)


def _in_memory(dataset: Dataset) -> bool:
    return all(block.holds_rows for block in dataset.blocks)


def _streamed(
    estimator: Any, task: Any, dataset: Dataset, out: Any, memory_limit: int | None
) -> Any:
    shape = (dataset.n_rows, *task.value_shape)
    engine = engine_for(estimator.engine, dataset)
    with engine.session(dataset, memory_limit=memory_limit) as session:
        if out is None:
            values = np.empty(shape, task.value_dtype)
            for first_row, part in session.stream(task):
                values[first_row : first_row + len(part)] = part
            return like(dataset.origin, values)
        from dgmm.data.sink import open_sink

        least = getattr(task, "least_dtype", None)
        with open_sink(out, shape, task.value_dtype, least=least) as sink:
            for _, part in session.stream(task, consumer_bytes=sink.buffer_bytes):
                sink.write(part)
            return sink.array


def _lazy(task: Any, dataset: Dataset) -> Any:
    from dgmm.data.dask import to_dask

    if dataset.skipping is not None:
        shape, dtype = task.value_shape, task.value_dtype
        return to_dask(dataset, partial(_evaluate_block, task=task), shape, dtype)
    rows = to_dask(dataset).rechunk({1: -1})
    meta = like(rows._meta, np.empty((0,) * (1 + len(task.value_shape)), task.value_dtype))
    chunks = (rows.chunks[0], *((n,) for n in task.value_shape))
    drop = None if task.value_shape else 1
    new = 2 if len(task.value_shape) == 2 else None
    return rows.map_blocks(
        _evaluate_chunk,
        task,
        dtype=task.value_dtype,
        chunks=chunks,
        drop_axis=drop,
        new_axis=new,
        meta=meta,
    )


@portable_errors()
def _evaluate_block(block: Block, task: Any) -> Array:
    with single_threaded_blas():
        return task.evaluate(block.read(), task.workspace())


@portable_errors()
def _evaluate_chunk(x: Any, task: Any, block_info: Any = None) -> Any:
    first_row = block_info[0]["array-location"][0][0] if block_info else 0
    with single_threaded_blas():
        return like(x, task.evaluate(Rows(x, first_row=first_row), task.workspace()))
