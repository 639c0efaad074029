"""What is shown: never a credential, always strict JSON, a bar on terminals and lines elsewhere."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.cli import progress
from dgmm.cli.output import redact, strict
from dgmm.cli.progress import Bar, Lines, Silence, follow
from dgmm.record import FitEvent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a.zarr", "s3://bucket/a.zarr"),
        ("s3://key:secret@bucket/a.zarr", "s3://bucket/a.zarr"),
        ("no s3:/key:secret@bucket/a?token=1", "no s3:/bucket/a"),
        ("C:/me@home/x?y", "C:/me@home/x?y"),
        ("s3://key:sec/r@t+=@bucket/a.zarr", "s3://bucket/a.zarr"),
        ("s3://token@bucket/a.zarr", "s3://bucket/a.zarr"),
        ("https://h/a.zarr?X-Amz-Signature=abc&x=1", "https://h/a.zarr"),
        ("https://u:p@h:8080/a?q#frag", "https://h:8080/a"),
        ("https://h/a#token=1", "https://h/a"),
        ("simplecache::s3://k:s@b/x", "simplecache::s3://b/x"),
        ("cannot open 's3://k:s@b/x?t=1': no", "cannot open 's3://b/x': no"),
        ("from s3://a:b@c/d to gs://e:f@g/h", "from s3://c/d to gs://g/h"),
        ("tls://host:8786", "tls://host:8786"),
        ("/data/what?/a@b.npy", "/data/what?/a@b.npy"),
        ("block 3, row 17: is it NaN?", "block 3, row 17: is it NaN?"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


USER = st.characters(min_codepoint=48, max_codepoint=122, exclude_characters=":@/?")
SECRET = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\"")


@given(
    user=st.text(
        st.characters(min_codepoint=48, max_codepoint=122, blacklist_characters=":@/?"), min_size=1
    ),
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126, blacklist_characters="'\"")),
)
def test_no_secret_survives(user: str, secret: str) -> None:
    assert redact(f"s3://{user}:{secret}@bucket/x") == "s3://bucket/x"


def test_strict_json_of_numpy_and_infinities() -> None:
    value = {
        "a": np.float32(0.5),
        "b": float("nan"),
        "c": [np.inf, np.arange(2)],
        4: np.bool_(True),
        "u": "s3://k:s@b/x",
    }
    text = json.dumps(strict(value), allow_nan=False)
    assert json.loads(text) == {
        "a": 0.5,
        "b": None,
        "c": [None, [0, 1]],
        "4": True,
        "u": "s3://b/x",
    }


def test_lines_come_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 0.0, 0.5, 1.1, 1.2, 1.3])
    lines = Lines(clock=lambda: next(times))
    with lines:
        for iteration in range(1, 5):
            lines(FitEvent("iteration", iteration))
        lines(FitEvent("done", 4))
    assert capsys.readouterr().err.splitlines() == [
        "iteration 1",
        "iteration 3",
        "done after 4 iterations",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    bar = follow(10, quiet=False, verbose=False)
    assert isinstance(bar, Bar)
    with bar:
        bar(FitEvent("iteration", 3, -1.5, 0.25, 2))
        bar(FitEvent("retired", message="restart [1] s3://k:s@b"))
        bar(FitEvent("done", 3))
    shown = terminal.getvalue()
    assert "retired: restart [1] s3://b" in shown
    assert "done after 3 iterations" in shown


@pytest.mark.parametrize(
    ("quiet", "verbose", "kind"),
    [(True, False, Silence), (False, True, Lines), (False, False, Lines)],
)
def test_elsewhere_lines(quiet: bool, verbose: bool, kind: type) -> None:
    assert type(follow(10, quiet=quiet, verbose=verbose)) is kind
