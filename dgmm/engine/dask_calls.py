"""Calls to a cluster: each has a deadline, and each failure is an error of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any, TypeVar

from distributed import CancelledError, Client
from distributed import Future as Task
from distributed.client import _wait
from distributed.comm.core import CommClosedError
from distributed.core import RPCClosed

from dgmm.engine.dask_timeouts import Timeouts
from dgmm.errors import DgmmError, SchedulerLostError

__all__ = ["Calls"]

# Between two looks at how a call or a pass is getting on.
WATCH_SECONDS = 1.0

# In which a client notices that its connection is broken, which a call of it has already.
_NOTICE_SECONDS = 2.0

# What nobody waits for may take so long: a worker that is stopped would hold up the rest.
_TELL_SECONDS = 5.0

_UNANSWERED = "Timed out trying to connect"

# Times that a question is asked, of a client that connects again in between.
_RECONNECTIONS = 3

T = TypeVar("T")


class Calls:
    """A client whose every answer is waited for in vain at most so long.

    Parameters
    ----------
    client : distributed.Client
    timeouts : Timeouts
    """

    def __init__(self, client: Client, timeouts: Timeouts) -> None:
        self.client = client
        self._timeouts = timeouts
        self._silent = False

    def ask(self, function: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        """What a method of the client says, which the scheduler answers by itself.

        Raises
        ------
        SchedulerLostError
            If it is gone, or does not answer in time.
        """
        seconds = self._timeouts.scheduler_timeout
        deadline = monotonic() + seconds

        def late() -> None:
            if monotonic() > deadline:
                self._silent = True
                raise SchedulerLostError(
                    f"the Dask scheduler has not answered for {seconds:g} seconds; it is stopped, "
                    "cut off or overwhelmed: see to it, or make a client of another cluster, and "
                    "go on from the checkpoint (scheduler_timeout of DaskEngine is the limit)"
                )

        return self.follow(late, function, *arguments, **options)

    def follow(
        self,
        look: Callable[[], None],
        function: Callable[..., Awaitable[Any]],
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """The same for a call that workers take part in: ``look`` says, by an error, when to stop.

        It is called every second.
        """
        with self.reached():
            call = self._begin(function, arguments, options)
            try:
                while True:
                    with suppress(TimeoutError):
                        return call.result(WATCH_SECONDS)
                    if call.done():
                        return call.result()
                    self.check()
                    look()
            finally:
                call.cancel()

    def wait_for_one(self, tasks: Sequence[Task[Any]]) -> None:
        """Wait until one of some tasks is done, or it is time to look how they are getting on.

        ``distributed.wait`` asks for a client that is the current one, and to be that is a matter
        of Dask's configuration, which all threads share: two sessions in two threads would leave
        each other's behind.
        """
        try:
            with self.reached():
                self.client.sync(_wait, tasks, WATCH_SECONDS, "FIRST_COMPLETED")
        except TimeoutError as error:
            _let_go(error)

    @property
    def scheduler(self) -> Any:
        """What the scheduler itself can be asked, for :meth:`ask`."""
        return self.client.scheduler

    def tell(
        self,
        function: Callable[..., Awaitable[Any]],
        *arguments: Any,
        seconds: float = _TELL_SECONDS,
        **options: Any,
    ) -> None:
        """Make a call whose answer does not matter, and whose failure must not hide an error."""
        with suppress(Exception):
            if self.client.status == "running" and not self._silent:
                self._begin(function, arguments, options).result(seconds)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Around every use of the client: a cluster that is gone fails in many ways."""
        try:
            self.check()
            yield
        except (DgmmError, CancelledError):
            self.check()
            raise
        except Exception as error:
            broken = isinstance(error, CommClosedError | RPCClosed | ConnectionError)
            # What distributed raises where a new connection is not answered; of no other kind.
            broken = broken or (type(error) is OSError and str(error).startswith(_UNANSWERED))
            if broken:
                self._wait_while("running", _NOTICE_SECONDS)
            self.check(error)
            # What a task raised, say, which is its own affair.
            if not broken:
                raise
            raise _lost(error) from error

    def check(self, cause: BaseException | None = None) -> None:
        """Refuse a client that is closed, or that has lost its scheduler for good.

        One that is about to connect again is waited for. Its tasks are gone in any case.
        """
        status = self.client.status
        if status == "running":
            return
        if status == "connecting":
            status = self._wait_while("connecting", self._timeouts.scheduler_timeout)
            if status == "running":
                raise CancelledError("the client had to connect again") from cause
        if status in ("closed", "closing"):
            raise SchedulerLostError(
                "the Dask client is closed; make a new one (or engine) and fit again"
            ) from cause
        raise _lost(cause or status) from cause

    def _wait_while(self, status: str, seconds: float) -> str:
        """The client's status, as soon as it is another one or the time is over."""
        deadline = monotonic() + seconds
        while self.client.status == status and monotonic() < deadline:
            sleep(0.05)
        return str(self.client.status)

    def _begin(
        self,
        function: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Future[Any]:
        # In its loop, a client's methods return what is to be awaited.
        async def call() -> Any:
            return await function(*arguments, **options)

        loop: Any = self.client.loop
        return asyncio.run_coroutine_threadsafe(call(), loop.asyncio_loop)


def steadily(question: Callable[[], T]) -> T:
    """The answer to a question that needs no tasks, asked again where the client had to connect.

    Raises
    ------
    SchedulerLostError
        If it has to do so again and again.
    """
    for _ in range(_RECONNECTIONS):
        try:
            return question()
        except CancelledError as error:
            last = error
    raise _lost(last) from last


def _let_go(error: BaseException) -> None:
    """Free the frames that an error of distributed's ``sync`` holds.

    One of them holds the error, and others hold futures: until the garbage collector came by, the
    results of a pass would stay on the workers.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None


def _lost(what: object) -> SchedulerLostError:
    return SchedulerLostError(
        f"the Dask scheduler cannot be reached ({what}); its cluster may have been closed: "
        "start one, make a new client for it and fit again"
    )
