"""One pass for a batch of mixtures, or a few where the memory limit is too small for one.

The batch is split between its kernels, never within one: a product of some mixtures has the bits
that it has with all of them, so that memory decides how often the rows are read and nothing else.
Engines split it the same way between threads that have no rows of their own. Where the blocks are
too few for many threads, the kernels are therefore cut into smaller ones to begin with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dgmm.engine.base import Session
from dgmm.errors import MemoryLimitError
from dgmm.expectation import BatchPass
from dgmm.kernels import CoefficientBlock, FeatureKernel, Kernel, Member
from dgmm.mixture import Mixture
from dgmm.posterior import Expectation, PosteriorPolicy
from dgmm.statistics import BatchStatistics, SufficientStatistics

__all__ = ["cut_kernels", "run_batch", "run_members"]

# With fewer blocks than this, kernels are cut so that blocks times kernels are as many.
_UNITS = 128

# But not into more than this: each builds the features of the rows anew, in buffers of its own.
_MOST_STACKS = 8

# Nor below so many components, where the products lose more than the threads can gain: ten restarts
# of 16 components in 64 features took 40 percent longer in stacks of 32 than in one of 160.
_LEAST_STACKED = 32


def run_batch(
    session: Session,
    kernels: tuple[Kernel, ...],
    mixtures: Sequence[Mixture],
    *,
    totals: Sequence[Any] | None = None,
    policy: PosteriorPolicy | None = None,
    policies: Sequence[PosteriorPolicy] = (),
    device: str = "cpu",
) -> list[SufficientStatistics]:
    """Finished statistics of every mixture on all rows.

    Parameters
    ----------
    session : Session
    kernels : tuple of Kernel
        From :func:`dgmm.expectation.plan_batch`.
    mixtures : sequence of Mixture
        The batch.
    totals : sequence of array or None, optional
        As :meth:`dgmm.expectation.BatchPass.finish` takes them; None for each by default.
    policy : PosteriorPolicy, optional
        By default responsibilities.
    policies : sequence of PosteriorPolicy, optional
        One for each mixture, where they differ.
    device : str, default="cpu"

    Raises
    ------
    MemoryLimitError
        If not even the smallest kernel fits.
    """
    shared = Expectation() if policy is None else policy
    task = BatchPass(kernels, shared, device, tuple(policies))
    merged = BatchStatistics(tuple(run_members(session, task)))
    given = [None] * len(mixtures) if totals is None else totals
    return list(task.finish(merged, mixtures, given).members)


def run_members(session: Session, task: BatchPass) -> list[Any]:
    """What the session gives for every mixture of the batch, not finished, in their order."""
    if not task.device.startswith("cuda"):
        n_blocks = sum(block.n_rows > 0 for block in session.dataset.blocks)
        task = replace(task, kernels=tuple(cut_kernels(task.kernels, n_blocks)))
    found = _run(session, task)
    return [found[i] for i in sorted(found)]


def _run(session: Session, task: BatchPass) -> dict[int, Any]:
    """Statistics by the mixtures' positions in the batch."""
    try:
        # A pass of a fit is seldom the last one.
        members = session.run(task, again=True).total.members
    except MemoryLimitError:
        # Raised while the pass is planned: nothing has been read yet.
        half = len(task.kernels) // 2
        if not half:
            raise
        # Policies go by a mixture's position in the whole batch, which its kernel knows.
        first = replace(task, kernels=task.kernels[:half])
        second = replace(task, kernels=task.kernels[half:])
        return _run(session, first) | _run(session, second)
    return dict(zip(task.indices, members, strict=True))


def cut_kernels(kernels: Sequence[Kernel], n_blocks: int) -> Iterator[Kernel]:
    """The kernels, in smaller stacks where there are few blocks for threads to share.

    What a stack gives has other last bits than its mixtures apart, so this follows from the data
    and the batch alone. Whether the stacks are then shared out is up to the engine.

    Parameters
    ----------
    kernels : sequence of Kernel
    n_blocks : int
        Blocks that hold rows.
    """
    n_stacks = min(_MOST_STACKS, -(-_UNITS // max(1, n_blocks)))
    total = sum(member.n_components for kernel in kernels for member in kernel.members)
    size = max(_LEAST_STACKED, total // n_stacks)
    for kernel in kernels:
        if isinstance(kernel, FeatureKernel) and kernel.n_stacked >= 2 * size:
            yield from _cut(kernel, kernel.n_stacked // size)
        else:
            yield kernel


_Stacked = tuple[Member, Any]


def _cut(kernel: FeatureKernel, n: int) -> Iterator[FeatureKernel]:
    """At most ``n`` kernels of about as many components, members with equal features together."""
    size, before = kernel.n_stacked / n, 0
    stacks: dict[int, list[_Stacked]] = {}
    for member, theta in _stacked(kernel):
        middle = before + member.n_components / 2
        stacks.setdefault(int(middle / size), []).append((member, theta))
        before += member.n_components
    for stack in stacks.values():
        yield _kernel_of(kernel, stack)


def _stacked(kernel: FeatureKernel) -> Iterator[_Stacked]:
    for block in kernel.blocks:
        start = 0
        for position in block.members:
            member = kernel.members[position]
            yield member, block.theta[start : start + member.n_components]
            start += member.n_components


def _kernel_of(kernel: FeatureKernel, stack: list[_Stacked]) -> FeatureKernel:
    by_size: dict[int, list[int]] = {}
    for position, (_, theta) in enumerate(stack):
        by_size.setdefault(theta.shape[1], []).append(position)
    blocks = tuple(
        CoefficientBlock(np.concatenate([stack[i][1] for i in positions]), tuple(positions))
        for _, positions in sorted(by_size.items())
    )
    return replace(kernel, members=tuple(member for member, _ in stack), blocks=blocks)
