"""The passes of a fit before there is anything to fit: what they will need, by shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.data.dataset import Dataset
from dgmm.expectation import MOST_STACKED, BatchPass, plan_batch
from dgmm.frame import Frame
from dgmm.guard import Frames, Level
from dgmm.mixture import Mixture
from dgmm.passes import cut_kernels
from dgmm.posterior import Expectation

__all__ = ["foreseeing_bytes", "passes_to_come"]


def foreseeing_bytes(shapes: Sequence[tuple[CovarianceFamily, int, int]], dataset: Dataset) -> int:
    """About what :func:`passes_to_come` takes for the same arguments."""
    d = dataset.n_features
    covariances = sum(int(np.prod(family.covariances_shape(k, d))) for family, k, _ in shapes)
    mixes = any(family.shape.uses_whitening() for family, _, _ in shapes)
    return 8 * (4 * covariances + 2 * d * d * mixes)


def passes_to_come(
    shapes: Sequence[tuple[CovarianceFamily, int, int]],
    dataset: Dataset,
    level: Level,
    device: str,
) -> Iterator[BatchPass]:
    """One pass for each kernel of the batch, the least that a pass can be cut down to.

    Their coefficients are of no mixture, and of the shapes that those of the fit will have.

    Parameters
    ----------
    shapes : sequence of (family, n_components, n_mixtures)
        Of the mixtures of the batch.
    dataset : Dataset
    level : Level
        The kernel that the fit begins with. A safer one, which few fits come to need, takes more.
    device : str
    """
    d = dataset.n_features
    plain = Frame(np.zeros(d))
    mixes = any(family.shape.uses_whitening() for family, _, _ in shapes)
    frames = Frames(plain, replace(plain, factor=np.eye(d)) if mixes else plain, True)
    mixtures: list[Mixture] = []
    for family, k, n in shapes:
        # Those that no longer go into one kernel are in others of the same size.
        mixtures += [_mixture(family, k, d)] * min(n, 1 + MOST_STACKED // k)
    n_blocks = sum(block.n_rows > 0 for block in dataset.blocks)
    seen: set[tuple[int, int]] = set()
    levels = [level] * len(mixtures)
    kernels = plan_batch(mixtures, levels, frames, quadratic=False, device=device)
    if not device.startswith("cuda"):
        kernels = tuple(cut_kernels(kernels, n_blocks))
    for kernel in kernels:
        one = BatchPass((kernel,), Expectation(), device)
        size = (one.workspace_bytes, one.result_bytes)
        if size not in seen:
            seen.add(size)
            yield one


def _mixture(family: CovarianceFamily, n_components: int, n_features: int) -> Mixture:
    shape = family.covariances_shape(n_components, n_features)
    return Mixture(
        np.full(n_components, 1.0 / n_components),
        np.zeros((n_components, n_features)),
        np.broadcast_to(family.shape.identity(n_features), shape),
        family.name,
    )
