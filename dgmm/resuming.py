"""The checkpoints of one fit: what it goes on from, and what it leaves for the next run.

The configuration of a fit is what changes the bits of its result. What does not may differ between
runs: ``max_iter`` (but below the iterations that are done), ``verbose``, ``engine``,
``memory_limit``, and the device within its kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dgmm.checkpoint import (
    Checkpoints,
    Effort,
    FitState,
    Found,
    Interval,
    Keeper,
    Schedule,
    StopRequest,
)
from dgmm.checkpoint.identity import (
    data_identity,
    differences,
    digest,
    moments_of,
    same_moments,
)
from dgmm.checkpoint.surroundings import surroundings
from dgmm.data.dataset import Dataset
from dgmm.dispatch import host_float64
from dgmm.em import Chain
from dgmm.engine.base import Counters
from dgmm.errors import (
    CheckpointError,
    CheckpointMismatchError,
    FitStoppedError,
    InvalidParameterError,
    SourceError,
)
from dgmm.maximization import MaximizationOptions
from dgmm.notices import warn_user
from dgmm.parameters import FitParameters
from dgmm.profile import Profile
from dgmm.record import FitEvent

__all__ = ["FitCheckpoints", "check_checkpoint", "configuration_of"]

RESUME = ("auto", "never", "must")
_STARTS = ("weights_init", "means_init", "covariances_init", "precisions_init")


def check_checkpoint(estimator: Any) -> tuple[Keeper | None, Interval]:
    """The arguments ``checkpoint``, ``checkpoint_every`` and ``resume``, checked.

    Raises
    ------
    InvalidParameterError
        Naming the argument, its value and what it may be.
    """
    # An array would not say whether it is in there.
    if not isinstance(estimator.resume, str) or estimator.resume not in RESUME:
        raise InvalidParameterError(
            f"resume={estimator.resume!r}; it must be one of {', '.join(map(repr, RESUME))}"
        )
    interval = Interval.of(estimator.checkpoint_every)
    given = estimator.checkpoint
    if given is not None:
        return (given if isinstance(given, Checkpoints) else Checkpoints(given)).open(), interval
    if estimator.resume == "must":
        raise InvalidParameterError("resume='must' needs checkpoint=, from which to resume")
    return None, interval


def configuration_of(
    estimator: Any, parameters: FitParameters, options: MaximizationOptions, previous: Any
) -> dict[str, Any]:
    """The arguments that change the bits of a result, as plain values.

    Parameters
    ----------
    estimator : GaussianMixture
    parameters : FitParameters
    options : MaximizationOptions
        Priors, floors and held parameters, spread over the components.
    previous : GaussianMixture or None
        The fitted one that is started from.
    """
    plain = (
        "n_components", "tol", "algorithm", "n_init", "halve_after", "acceleration",
        "empty_components", "dtype",
    )  # fmt: skip
    method = parameters.init_params
    return {
        **{name: getattr(parameters, name) for name in plain},
        "covariance_type": parameters.family.name,
        "annealing": list(parameters.temperatures),
        "init_params": method if isinstance(method, str) else _name_of(method),
        **{name: _given(getattr(estimator, name)) for name in _STARTS},
        "reg_covar": options.reg_covar,
        "covariance_floor": options.covariance_floor,
        **{
            f"{name}_prior": _given(getattr(options.priors, name))
            for name in type(options.priors).__dataclass_fields__
        },
        **{f"fixed {name}": sorted(held) for name, held in vars(options.fixed).items()},
        "warm start": None if previous is None else _started_from(previous),
    }


def _started_from(previous: Any) -> list[Any]:
    start = previous.mixture_
    arrays = (start.weights, start.means, start.covariances)
    return [previous.lower_bound_, *map(digest, arrays)]


def _name_of(method: Callable[..., Any]) -> str:
    return f"{getattr(method, '__module__', '')}.{getattr(method, '__qualname__', 'a callable')}"


def _given(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return digest(host_float64(value))
    except (TypeError, ValueError):
        # The starts refuse it by name.
        return "no array of numbers"


class FitCheckpoints:
    """What a fit keeps, and what it goes on from. Does nothing without a keeper.

    Parameters
    ----------
    keeper : Keeper or None
    interval : Interval
    resume : {"auto", "never", "must"}
    stop : StopRequest, optional
        Heeded while iterations run, where there is a keeper.
    """

    def __init__(
        self,
        keeper: Keeper | None,
        interval: Interval,
        resume: str,
        stop: StopRequest | None = None,
    ) -> None:
        self._keeper, self._interval = keeper, interval
        self._stop = StopRequest() if stop is None else stop
        self._started = time.perf_counter()
        self._found = self._look(resume)
        self._notes: list[str] = []
        self._identity: dict[str, Any] = {}
        self._entropy = 0
        self._failing = False

    @property
    def chains(self) -> list[Chain] | None:
        """Those to go on with; None for a fit from the start."""
        return None if self._found is None else list(self._found.state.chains)

    @property
    def iteration(self) -> int:
        """Iterations that are done."""
        return 0 if self._found is None else self._found.state.iteration

    @property
    def earlier(self) -> Effort:
        """What the runs before have taken."""
        return Effort() if self._found is None else self._found.state.effort

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the checkpoints of this run."""
        return tuple(self._notes)

    def _look(self, resume: str) -> Found | None:
        if self._keeper is None:
            return None
        if resume == "never":
            self._keeper.disown()
            return None
        found = self._keeper.newest()
        if found is None and resume == "must":
            raise CheckpointError(
                f"resume='must' and there is no checkpoint in {self._keeper.place.name}; check the "
                "place, or pass resume='auto'"
            )
        return found

    # ------------------------------------------------------------------------------- going on

    def entropy(self, draw: Callable[[], int], random_state: Any, max_iter: int) -> int:
        """The one seed of the fit: the one it began with, or a new one.

        Parameters
        ----------
        draw : callable
            Gives the seed of a new fit.
        random_state : object
            Compared only if it is an integer: anything else gives another seed every time.
        max_iter : int

        Raises
        ------
        CheckpointMismatchError
            If the checkpoint is of another seed, or past ``max_iter``.
        """
        if self._found is None:
            self._entropy = draw()
            return self._entropy
        state, wrong = self._found.state, []
        if isinstance(random_state, int | np.integer) and int(random_state) != state.entropy:
            wrong.append(f"random_state was {state.entropy} and is {int(random_state)}")
        if state.iteration > max_iter:
            wrong.append(
                f"{state.iteration} iterations are done and max_iter is {max_iter}, which a fit "
                "would not have passed"
            )
        self._refuse(wrong)
        self._entropy = state.entropy
        return self._entropy

    def check_configuration(self, configuration: dict[str, Any]) -> None:
        """Refuse a checkpoint of other arguments; a fit from the start takes note of them."""
        self._identity["configuration"] = configuration
        if self._found is None:
            return
        # Before there was a choice, components without rows were kept.
        stored = {"empty_components": "keep", **self._found.state.configuration}
        self._refuse(differences(stored, configuration))
        self._say(f"resumed from iteration {self.iteration}: {self._found.label}", warn=False)
        for problem in self._found.damaged:
            self._say(f"a newer checkpoint cannot be used and an older one was taken: {problem}")

    def check_data(
        self,
        dataset: Dataset,
        profile: Profile,
        device: str = "cpu",
        processors: Iterable[str] = (),
    ) -> Profile:
        """The profile to go on with, after a check that it is of the rows that it was.

        On another kind of processor the moments of the same rows differ by rounding; those that
        the fit began with are then kept, since frames follow from them.

        Parameters
        ----------
        dataset : Dataset
        profile : Profile
        device : str, default="cpu"
            Of the passes.
        processors : iterable of str
            Kinds of processor that workers computed the profile on.

        Raises
        ------
        CheckpointMismatchError
            Naming what differs.
        """
        if self._keeper is None:
            return profile
        data, moments = data_identity(dataset, profile), moments_of(profile)
        here = surroundings(device, processors)
        if self._found is not None:
            state = self._found.state
            # Checkpoints did not always hold a digest of all rows.
            wrong = differences({"all rows": data["all rows"], **state.data}, data)
            exact = state.surroundings == here
            if not wrong:
                changed = same_moments(state.moments, moments, exact=exact)
                wrong = [f"the {name} of the rows is another" for name in changed]
            self._refuse([f"the data: {one}" for one in wrong])
            if not exact:
                changed = differences(state.surroundings, here)
                self._say(
                    "the last bits of the result may not be those of a fit without interruption: "
                    + "; ".join(changed)
                )
                moments = dict(state.moments)
        self._identity |= {"data": data, "moments": moments, "surroundings": here}
        return replace(profile, **moments)

    def _refuse(self, wrong: list[str]) -> None:
        if wrong:
            assert self._found is not None
            raise CheckpointMismatchError(
                f"the checkpoint {self._found.label} is of another fit: {'; '.join(wrong)}; make "
                "them equal, give another place, or pass resume='never' to start anew"
            )

    # -------------------------------------------------------------------------------- keeping

    def watch(
        self,
        events: Iterator[FitEvent],
        chains: list[Chain],
        *,
        max_iter: int,
        counters: Counters,
        peak: Callable[[], int],
    ) -> Iterator[FitEvent]:
        """The events of the loop, with a checkpoint written before those after which one is due.

        Parameters
        ----------
        events : iterator of FitEvent
        chains : list of Chain
            The loop's own, between two events as it left them.
        max_iter : int
        counters : Counters
            Of this run's session.
        peak : callable
            Gives the most memory that this run has used so far.

        Raises
        ------
        FitStoppedError
            If the fit was asked to stop; a checkpoint has then been written.
        SourceError
            If the first checkpoint cannot be written. Later a failure is a warning, and the fit
            goes on.
        """
        if self._keeper is None:
            yield from events
            return
        schedule = Schedule(self._interval)
        schedule.wrote(self.iteration)

        def write(iteration: int) -> None:
            schedule.wrote(iteration)
            seconds = time.perf_counter() - self._started
            taken = self.earlier.with_run(counters, seconds, peak())
            state = FitState(
                iteration, tuple(chains), self._entropy, effort=taken, **self._identity
            )
            assert self._keeper is not None
            self._keeper.write(state)

        with self._stop.heeded():
            if self._found is None:
                write(0)
            self._end_if_asked(self.iteration)
            for event in events:
                if event.kind == "iteration":
                    self._after(event.iteration, chains, schedule, max_iter, write)
                yield event

    def _after(
        self,
        iteration: int,
        chains: list[Chain],
        schedule: Schedule,
        max_iter: int,
        write: Callable[[int], None],
    ) -> None:
        """Write what is due after an iteration, and end the fit if that is asked for."""
        last = iteration == max_iter or not any(chain.is_running for chain in chains)
        asked = bool(self._stop.reason)
        if asked:
            try:
                write(iteration)
            except SourceError as error:
                raise FitStoppedError(
                    f"stopped by {self._stop.reason} after iteration {iteration}, without a "
                    f"checkpoint of it: {error}; the same call goes on from an older one, if there "
                    "is one"
                ) from error
            self._end_if_asked(iteration)
        if last or schedule.is_due(iteration):
            try:
                write(iteration)
                self._failing = False
            except SourceError as error:
                # Once for a disk that stays full for days.
                if not self._failing:
                    self._say(
                        f"no checkpoint of iteration {iteration}, and the fit goes on: {error}"
                    )
                self._failing = True

    def _end_if_asked(self, iteration: int) -> None:
        if self._stop.reason:
            assert self._keeper is not None
            raise FitStoppedError(
                f"stopped by {self._stop.reason} after iteration {iteration}; the checkpoint is in "
                f"{self._keeper.place.name}, and the same call goes on from it"
            )

    def _say(self, note: str, *, warn: bool = True) -> None:
        self._notes.append(note)
        if warn:
            warn_user(note, RuntimeWarning)
