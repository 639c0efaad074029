"""The examples of the pages of documentation run, and give what the pages say."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Every page with python blocks. They run in order, in one namespace and an empty folder.
PAGES = sorted(p.name for p in DOCS.glob("*.md") if _BLOCK.search(p.read_text(encoding="utf-8")))


def blocks(page: str) -> list[tuple[int, str]]:
    """The line that each block starts on, and its program."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [(text.count("\n", 0, m.start(1)), m.group(1)) for m in _BLOCK.finditer(text)]
    assert found
    return found


@pytest.mark.parametrize("page", PAGES)
def test_examples_run_and_state_what_is_so(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expression followed by ``# -> value`` gives that value, to the digits that are stated."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    # A page may set filters of its own.
    with warnings.catch_warnings():
        run(page, namespace)


def run(page: str, namespace: dict[str, Any]) -> None:
    for line, program in blocks(page):
        # Blank lines in front, so that a failure names the line of the page.
        exec(compile("\n" * line + program, page, "exec"), namespace)  # noqa: S102
        for source, stated in re.findall(r"^([^#\n]+?)\s+# -> (.+)$", program, re.MULTILINE):
            value = eval(source, namespace)  # noqa: S307 (our own page)
            agree(value, ast.literal_eval(stated), f"{page}: {source}")


def agree(value: Any, stated: Any, where: str) -> None:
    if np.asarray(stated).dtype.kind in "biuf":
        np.testing.assert_allclose(value, stated, atol=0.006, err_msg=where)
    else:
        assert value == stated, where


def test_some_pages_state_values() -> None:
    stated = [len(re.findall("# -> ", (DOCS / page).read_text("utf-8"))) for page in PAGES]
    assert sum(stated) >= 20
