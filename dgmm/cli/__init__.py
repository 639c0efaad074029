"""The ``dgmm`` command: ``fit``, ``select``, ``predict``, ``score``, ``sample`` and others.

What a command found goes to standard output as one JSON object in the last line; everything else
goes to standard error. Errors are one line, and the exit code (:mod:`dgmm.cli.exits`) says whether
to change the command, the data, or nothing.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from dgmm import __version__
from dgmm.cli.apply import predict, score
from dgmm.cli.demo import demo as demo_command
from dgmm.cli.exits import Exit, exit_of
from dgmm.cli.fit import fit as fit_command
from dgmm.cli.inspect import inspect as inspect_command
from dgmm.cli.model import export, sample
from dgmm.cli.options import Talk
from dgmm.cli.output import print_line, warnings_as_lines
from dgmm.cli.select import select as select_command
from dgmm.cli.wording import in_options

__all__ = ["main"]


# Under names of their own, so that dgmm.cli.fit stays the module.
@click.group(
    commands=[
        fit_command,
        select_command,
        predict,
        score,
        sample,
        export,
        inspect_command,
        demo_command,
    ],
    invoke_without_command=True,
)
@click.version_option(__version__, message="dgmm %(version)s")
@click.pass_context
def _dgmm(context: click.Context) -> None:
    """Gaussian mixtures for data that does not fit in memory."""
    if context.invoked_subcommand is None:
        # Not an error, nor what was asked for: a script that forgot the command should notice.
        click.echo(context.get_help(), err=True)
        context.exit(Exit.USAGE)
    assert isinstance(context.command, click.Group)
    context.obj.command = context.command.get_command(context, context.invoked_subcommand)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; by default those of this process.

    Returns
    -------
    int
        The exit code: 0 done, 1 a defect of dgmm, 2 usage, 65 bad data, 75 try again.
    """
    talk = Talk()
    try:
        with _stopped_by_sigterm(), warnings_as_lines(lambda text: in_options(text, talk.command)):
            code = _dgmm.main(args=argv, prog_name="dgmm", standalone_mode=False, obj=talk)
    # A command line has no caller to hand an exception to: every one becomes a line and a code.
    except BaseException as error:
        if isinstance(error, SystemExit | GeneratorExit):
            raise
        return _report(error, talk)
    # What was left by context.exit() comes back as a number, a command's end as None.
    return code or Exit.DONE


def _report(error: BaseException, talk: Talk) -> int:
    """Say what went wrong in a line, and return the exit code."""
    code = exit_of(error)
    # --debug stands last: the traceback first, then the line that everyone gets.
    if talk.debug:
        print_line("".join(traceback.format_exception(error)).rstrip())
    message = in_options(" ".join(_message(error, code).split()), talk.command)
    print_line(f"dgmm: error: {message}")
    return code


def _message(error: BaseException, code: Exit) -> str:
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        return "interrupted before it was done; run the same command again"
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "dgmm"
        return f"{error.format_message()} (try {command} --help)"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if code is Exit.BUG:
        name = type(error).__name__
        return f"{name}: {error} (this is a defect of dgmm; --debug shows where)"
    return str(error) or type(error).__name__


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: files closed, clusters stopped, code 75."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    # Python allows it in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
