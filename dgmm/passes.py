"""One pass for a batch of mixtures, or a few where the memory limit is too small for one.

The batch is split between its kernels, never within one: a product of some mixtures has the bits
that it has with all of them, so that memory decides how often the rows are read and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dgmm.engine.base import Session
from dgmm.errors import MemoryLimitError
from dgmm.expectation import BatchPass
from dgmm.kernels import Kernel
from dgmm.mixture import Mixture
from dgmm.posterior import Expectation, PosteriorPolicy
from dgmm.statistics import BatchStatistics, SufficientStatistics

__all__ = ["run_batch", "run_members"]


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
    found = _run(session, task)
    return [found[i] for i in sorted(found)]


def _run(session: Session, task: BatchPass) -> dict[int, Any]:
    """Statistics by the mixtures' positions in the batch."""
    try:
        members = session.run(task).total.members
    except MemoryLimitError:
        # Raised while the pass is planned: nothing has been read yet.
        half = len(task.kernels) // 2
        if not half:
            raise
        # Policies go by a mixture's position in the whole batch, which its kernel knows.
        first = replace(task, kernels=task.kernels[:half])
        second = replace(task, kernels=task.kernels[half:])
        return _run(session, first) | _run(session, second)
    indices = sorted(member.index for kernel in task.kernels for member in kernel.members)
    return dict(zip(indices, members, strict=True))
