"""Errors of ours come out of a worker as what they are."""

from __future__ import annotations

import pytest
from distributed.core import error_message
from distributed.protocol.pickle import loads

from dgmm.errors import DamagedBlockError, SourceError
from dgmm.portable import portable_errors


class StubbornError(Exception):
    """Pickles, and does not come back."""

    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"{code} at {where}")


def sent(error: BaseException) -> BaseException:
    """What the driver is given for an error that a task raises."""
    with pytest.raises(type(error)) as raised, portable_errors():
        raise error
    return loads(error_message(raised.value)["exception"].data)


def caused_by(cause: BaseException, *, shown: bool) -> DamagedBlockError:
    error = DamagedBlockError("block 3 is damaged")
    # As "raise error from cause" has it, or "from None" while the cause is handled.
    error.__cause__, error.__context__ = cause if shown else None, cause
    error.__suppress_context__ = True
    return error


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize(
    "cause",
    [
        StubbornError(3, "chunk"),
        ExceptionGroup("two", [StubbornError(3, "chunk")]),
        ValueError(lambda: None),
    ],
)
def test_an_error_arrives_whatever_led_to_it(cause: BaseException, shown: bool) -> None:
    found = sent(caused_by(cause, shown=shown))
    assert type(found) is DamagedBlockError
    assert str(found) == "block 3 is damaged"


def test_what_led_to_it_comes_along_where_it_can() -> None:
    found = sent(caused_by(ValueError("checksum"), shown=True))
    assert isinstance(found.__cause__, ValueError)


def test_what_is_hidden_is_not_sent_at_all() -> None:
    found = sent(caused_by(ValueError("key=secret"), shown=False))
    assert found.__cause__ is None
    assert found.__context__ is None


def test_a_long_chain_is_looked_through() -> None:
    error = SourceError("cannot read")
    error.__cause__ = caused_by(StubbornError(3, "chunk"), shown=True)
    assert type(sent(error)) is SourceError
