"""Mixtures and rows of a stated difficulty, and a session that runs tasks on rows in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise

import numpy as np

from dgmm.covariance import family_of
from dgmm.data.arrays import open_array
from dgmm.data.dataset import Rows
from dgmm.em import Context, frames_of
from dgmm.engine.base import Reduced
from dgmm.mixture import Mixture
from dgmm.profile import ProfilePass
from dgmm.sampling import draw
from dgmm.testing.families import oracle_log_joint, oracle_responsibilities


@dataclass
class SerialSession:
    """Evaluates tasks on ``n_parts`` parts of an array, one after another.

    ``members`` lists how many mixtures each pass evaluated.
    """

    x: np.ndarray
    n_parts: int = 3
    members: list[int] = field(default_factory=list)

    @property
    def dataset(self):
        return open_array(self.x, 2**20)

    def run(self, task, *, blocks=None, keep=None, again=False):
        edges = np.linspace(0, len(self.x), self.n_parts + 1).astype(int)
        rows, workspace = Rows(self.x), task.workspace()
        parts = [
            task.evaluate(rows.part(start, stop), workspace) for start, stop in pairwise(edges)
        ]
        total = reduce(lambda mine, theirs: mine.merge(theirs), parts)
        self.members.append(len(getattr(total, "members", ())))
        return Reduced(total)


def profile_task(x, size=64, seed=0, **options):
    return ProfilePass(*x.shape, sample_size=size, seed=seed, itemsize=x.itemsize, **options)


def profile_of(x, size=64, seed=0, n_parts=1, **options):
    return SerialSession(x, n_parts).run(profile_task(x, size, seed, **options)).total


def context_of(x, n_parts=3):
    profile = profile_of(x)
    return Context(SerialSession(x, n_parts), frames_of(profile, x.dtype), profile)


def dense(mixture):
    family = mixture.family
    covariances = family.per_component(mixture.covariances, mixture.n_components)
    return family.shape.dense(covariances, mixture.n_features)


def oracle(mixture, x):
    """Log densities and responsibilities in extended precision."""
    joint = oracle_log_joint(mixture.weights, mixture.means, dense(mixture), x)
    return oracle_responsibilities(joint)


def random_covariances(rng, n_components, n_features, condition):
    """Dense covariances of about unit scale whose eigenvalues span ``condition``."""
    covariances = []
    for _ in range(n_components):
        axes, _ = np.linalg.qr(rng.standard_normal((n_features, n_features)))
        values = condition ** rng.uniform(-0.5, 0.5, n_features)
        if n_features > 1:
            values[0], values[-1] = condition**-0.5, condition**0.5
        covariances.append((axes * values) @ axes.T)
    return np.array(covariances)


def random_mixture(rng, name, n_components, n_features, *, condition=10.0, reach=3.0, offset=0.0):
    """Means ``reach`` standard deviations around ``offset`` standard deviations."""
    family = family_of(name)
    wide = random_covariances(rng, n_components, n_features, condition)
    scale = np.sqrt(np.einsum("kii->", wide) / (n_components * n_features))
    covariances = family.shape.project(wide) / family.shape.divisor(n_features)
    means = scale * (offset + reach * rng.standard_normal((n_components, n_features)))
    return Mixture(
        rng.dirichlet(np.full(n_components, 3.0)),
        means,
        covariances[0] if family.is_tied else covariances,
        name,
    )


def rows_of(mixture, n_rows, seed, dtype="float64"):
    return draw(mixture, n_rows, np.random.SeedSequence(seed))[0].astype(dtype)


def blobs(seed, n_rows=600, n_features=3, n_components=3, reach=4.0, dtype="float64"):
    """Rows of well-formed clusters, in random order."""
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, "full", n_components, n_features, reach=reach)
    return rng.permutation(rows_of(mixture, n_rows, seed)).astype(dtype)
