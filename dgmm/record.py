"""What a fit reports: events while it runs, and a record when it is done.

Nothing here is part of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FitEvent", "FitRecord", "RestartRecord", "kept_restart"]


@dataclass(frozen=True)
class FitEvent:
    """One step of a fit, for progress displays.

    Parameters
    ----------
    kind : {"profile", "initialize", "iteration", "retired", "done", "write"}
        "write" comes from the demonstration alone, before its fit: rows are being written.
    iteration : int
        Passes of the loop so far.
    lower_bound : float
        Of the best restart, per row, in nats.
    change : float
        Its gain over the iteration before.
    active : int
        Restarts still running.
    message : str
    """

    kind: str
    iteration: int = 0
    lower_bound: float = float("-inf")
    change: float = float("inf")
    active: int = 0
    message: str = ""


@dataclass(frozen=True)
class RestartRecord:
    """How one restart went.

    Parameters
    ----------
    status : {"converged", "max_iter", "collapsed", "retired", "halved"}
        ``retired`` collapsed; ``collapsed`` did so by a draw of stochastic EM, and ends at its
        likeliest iterate; ``halved`` was given up as hopeless (``halve_after``).
    n_iter : int
    lower_bound : float
        Per row, in nats; −inf if no iteration was done. With priors, the log posterior.
    lower_bounds : tuple of float
        Before each M-step.
    kernel : str
        The safest kernel it needed: ``float32``, ``float64`` or ``centred``.
    reason : str
        Why it was retired or halved, empty otherwise.
    log_likelihood : float
        Per row, in nats, without priors: of the same mixture as ``lower_bound``.
    evaluations : int
        Mixtures evaluated on all rows; more than ``n_iter`` where a pass tried several.
    gap : float, optional
        Under acceleration, the estimated gap to the optimum, per row in nats (∞ before there is
        an estimate): what the fit stopped by, never a guarantee.
    """

    status: str
    n_iter: int
    lower_bound: float
    lower_bounds: tuple[float, ...]
    kernel: str
    reason: str = ""
    log_likelihood: float = float("-inf")
    evaluations: int = 0
    gap: float | None = None

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return (
            f"{self.status}{reason} after n_iter={self.n_iter}, lower bound "
            f"{self.lower_bound:.8g} nats per row, {self.kernel} kernel"
        )

    @property
    def was_given_up(self) -> bool:
        """True if it collapsed or was hopeless, so that it was not run to its end."""
        return self.status in ("retired", "halved")


@dataclass(frozen=True)
class FitRecord:
    """How a fit went: ``record_`` of a fitted estimator.

    Parameters
    ----------
    rows : int
    passes : int
        Over the data, the profile included.
    block_reads, bytes_read : int
        From the source; blocks that were in memory do not count.
    nodes_received : int
        Most tree nodes that the driver received in a pass.
    seconds : float
        Wall time of the fit.
    peak_memory : int
        Bytes of resident memory above what the process used when the fit began to be possible
        (dgmm imported); of this process.
    engine, device : str
    restarts : tuple of RestartRecord
    notes : tuple of str
        What a user should know: constant columns, empty components, safer kernels.
    skipped_rows : int
        Bad rows that were left out, those of blocks that could not be read included.
    skipped_blocks : tuple of str
        Such blocks, and what is wrong with each: the first 20.
    acceleration : str
        What a pass was taken to be bound by under acceleration, ``computing`` or ``reading``;
        ``none`` where the algorithm cannot be accelerated, empty where it was not asked for.
    device_reason : str
        Why the fit ran on ``device``: what was found, or "asked for".
    retries : int
        Times that a pass was begun again because workers, or what they held, were lost.
    workers_lost : int
        Workers of a cluster that left, or were lost, between the first pass and the last.
    """

    rows: int
    passes: int
    block_reads: int
    bytes_read: int
    nodes_received: int
    seconds: float
    peak_memory: int
    engine: str
    device: str
    restarts: tuple[RestartRecord, ...]
    notes: tuple[str, ...]
    skipped_rows: int = 0
    skipped_blocks: tuple[str, ...] = ()
    acceleration: str = ""
    device_reason: str = ""
    retries: int = 0
    workers_lost: int = 0

    @property
    def evaluations(self) -> int:
        """Mixtures evaluated on all rows, by all restarts."""
        return sum(one.evaluations for one in self.restarts)

    @property
    def log_likelihood(self) -> float:
        """Log-likelihood per row of the restart that was kept, in nats, without priors."""
        kept = (one for one in self.restarts if one.status != "retired")
        # As dgmm.chains.best_chain: hopeless ones come last, wherever they stopped.
        best = max(kept, key=lambda one: (one.status != "halved", one.lower_bound))
        return best.log_likelihood

    def __str__(self) -> str:
        lines = [
            f"{self.rows} rows, {self.passes} passes, {self.seconds:.3g} s",
            f"{self.block_reads} blocks read, {self.bytes_read / 2**20:.3g} MiB",
            f"engine {self.engine}, device {self.device} ({self.device_reason or 'as found'})",
            f"peak of memory {self.peak_memory / 2**20:.0f} MiB above the start",
        ]
        if self.workers_lost or self.retries:
            lines.append(f"workers lost: {self.workers_lost}; passes begun again: {self.retries}")
        if self.acceleration:
            lines.append(f"acceleration: {self.acceleration}")
        if self.skipped_rows or self.skipped_blocks:
            blocks = "".join(f"; {block}" for block in self.skipped_blocks)
            lines.append(f"rows skipped: {self.skipped_rows}{blocks}")
        lines += [f"restart {i}: {one}" for i, one in enumerate(self.restarts)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def kept_restart(restarts: Sequence[RestartRecord], lower_bound: float) -> int | None:
    """Number of the restart that a model with this lower bound comes from; None if of none."""
    bound = float(lower_bound)
    matches = (
        i
        for i, one in enumerate(restarts)
        if not one.was_given_up and float(one.lower_bound) == bound
    )
    return next(matches, None)
