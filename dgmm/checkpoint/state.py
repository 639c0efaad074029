"""What a checkpoint holds: everything of a fit between two iterations, and what fit it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from dgmm.chains import Chain
from dgmm.checkpoint.plain import pack, unpack
from dgmm.errors import CheckpointError, DgmmError
from dgmm.sealed import Seal

__all__ = ["FORMAT", "FORMAT_VERSION", "Effort", "FitState", "decode", "encode"]

FORMAT = "dgmm-checkpoint"
FORMAT_VERSION = 1

_SEAL = Seal(
    FORMAT,
    FORMAT_VERSION,
    noun="checkpoint",
    error=CheckpointError,
    damaged="an older one may be whole; without any, start anew with resume='never'",
    truncated="an older one may be whole; without any, start anew with resume='never'",
    foreign="give the directory or URL that a fit was given as its checkpoint",
)

# What contents that are no state can raise, however they were made.
_NO_STATE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    DgmmError,
)


@dataclass(frozen=True)
class Effort:
    """What all runs of a fit have taken so far; see :class:`~dgmm.record.FitRecord`."""

    passes: int = 0
    block_reads: int = 0
    bytes_read: int = 0
    nodes_received: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    retries: int = 0
    workers_lost: int = 0

    def with_run(self, counters: Any, seconds: float, peak_memory: int) -> Effort:
        """With a further run added.

        Parameters
        ----------
        counters : Counters
            Of its session.
        seconds : float
        peak_memory : int
        """
        return Effort(
            self.passes + counters.passes,
            self.block_reads + counters.block_reads,
            self.bytes_read + counters.bytes_read,
            max(self.nodes_received, counters.nodes_received),
            self.seconds + seconds,
            max(self.peak_memory, peak_memory),
            self.retries + counters.retries,
            self.workers_lost + counters.workers_lost,
        )


@dataclass(frozen=True, eq=False)
class FitState:
    """A fit between two iterations.

    Parameters
    ----------
    iteration : int
        Iterations that are done.
    chains : tuple of Chain
    entropy : int
        The one seed of the fit. Draws are keyed by it and by what they are for, so that there is
        no generator whose state would have to be kept.
    configuration : mapping
        The arguments that change the result, as plain values.
    data : mapping
        What identifies the rows, as plain values.
    moments : mapping
        Weight, mean and scatter of the rows: the frames of the fit follow from them.
    surroundings : mapping
        The libraries and the kind of processor, on which the last bits depend.
    effort : Effort
    """

    iteration: int
    chains: tuple[Chain, ...]
    entropy: int
    configuration: Mapping[str, Any]
    data: Mapping[str, Any]
    moments: Mapping[str, Any]
    surroundings: Mapping[str, Any]
    effort: Effort = field(default_factory=Effort)


def encode(state: FitState) -> bytes:
    """The file that holds a state."""
    # Not asdict: it would copy every array, and look into the chains.
    named = {name: getattr(state, name) for name in FitState.__dataclass_fields__}
    chains = [chain.to_state() for chain in state.chains]
    arrays, facts = pack(named | {"chains": chains, "effort": asdict(state.effort)})
    return _SEAL.close(arrays, facts)


def decode(name: str, file: BinaryIO, size: int) -> FitState:
    """The state out of a file.

    Parameters
    ----------
    name : str
        How messages call the file.
    file : binary file
    size : int
        Its bytes.

    Raises
    ------
    CheckpointError
        If a byte is not what was written, or the contents are no state of a fit.
    """
    arrays, facts = _SEAL.open(name, file, size)
    try:
        return _state_of(unpack(arrays, facts))
    except _NO_STATE as error:
        raise CheckpointError(
            f"{name} is a dgmm checkpoint file but does not describe a fit: {error}"
        ) from error


def _state_of(known: dict[str, Any]) -> FitState:
    for name, kind in (("iteration", int), ("entropy", int), ("effort", dict)):
        if type(known[name]) is not kind:
            raise TypeError(f"{name} is {known[name]!r}")
    if known["iteration"] < 0 or known["entropy"] < 0 or not known["chains"]:
        raise ValueError("it has no chains, or a negative iteration or entropy")
    for name in ("configuration", "data", "moments", "surroundings"):
        if not isinstance(known[name], dict):
            raise TypeError(f"{name} is {known[name]!r}")
    if known["moments"].keys() != {"weight", "mean", "scatter"}:
        raise ValueError(f"its moments are {sorted(known['moments'])}")
    chains = tuple(Chain.from_state(one) for one in known["chains"])
    return FitState(**known | {"chains": chains, "effort": Effort(**known["effort"])})
