"""Spark's ``GaussianMixture`` (``pyspark.ml``), in one process with a thread for each core."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from benchmarks.problems import Problem, Start
from benchmarks.systems.base import versions_of


class Spark:
    """A cached data frame with as many partitions as there are cores.

    It begins where a seed puts it and nowhere else: a fit of no iterations tells where that is, and
    the other systems start from there. It adds nothing to covariances.
    """

    def __init__(self) -> None:
        sql = importlib.import_module("pyspark.sql")
        self._make = importlib.import_module("pyspark.ml.clustering").GaussianMixture
        self._vector = importlib.import_module("pyspark.ml.linalg").Vectors.dense
        self._cores = len(os.sched_getaffinity(0))
        self._session = (
            sql.SparkSession.builder.master(f"local[{self._cores}]")
            .appName("benchmarks")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.memory", "4g")
            .config("spark.log.level", "ERROR")
            .getOrCreate()
        )
        self._frame: Any = None
        self._k = 0
        self._model: Any = None

    def versions(self) -> dict[str, str]:
        java = self._session.sparkContext._jvm.System.getProperty("java.version")
        return {**versions_of("pyspark"), "java": java}

    def refusal(self, problem: Problem) -> str | None:
        if problem.covariance_type != "full":
            return f"has no family {problem.covariance_type}"
        if problem.x.dtype != np.float64:
            return f"works in float64, not {problem.x.dtype}"
        return None

    def load(self, problem: Problem) -> None:
        if self._frame is not None:
            self._frame.unpersist()
        rows = [(self._vector(row),) for row in problem.x]
        # Not repartitioned, which may change their order and the start with it.
        shared = self._session.sparkContext.parallelize(rows, self._cores)
        self._frame = self._session.createDataFrame(shared, ["features"]).cache()
        self._frame.count()
        self._k = problem.n_components

    def own_start(self, n_components: int) -> Start | None:
        self._k = n_components
        self.fit(0)
        return self.fitted()

    def fit(self, iterations: int) -> None:
        self._model = self._make(k=self._k, maxIter=iterations, tol=0.0, seed=1).fit(self._frame)

    def fitted(self) -> Start:
        gaussians = self._model.gaussians
        return Start(
            np.array(self._model.weights),
            np.stack([one.mean.toArray() for one in gaussians]),
            np.stack([one.cov.toArray() for one in gaussians]),
        )
