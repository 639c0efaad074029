"""The examples of the pages of documentation run, and give what the pages say."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Every page with python blocks. They run in order, in one namespace and an empty folder.
PAGES = sorted(p.name for p in DOCS.glob("*.md") if _BLOCK.search(p.read_text(encoding="utf-8")))
STATING = [page for page in PAGES if "# -> " in (DOCS / page).read_text(encoding="utf-8")]


def blocks(page: str) -> list[tuple[int, str]]:
    """The line that each block starts on, and its program."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [(text.count("\n", 0, m.start(1)), m.group(1)) for m in _BLOCK.finditer(text)]
    assert found
    return found


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for line, program in blocks(page):
        # Blank lines in front, so that a failure names the line of the page.
        exec(compile("\n" * line + program, page, "exec"), namespace)  # noqa: S102


@pytest.mark.parametrize("page", STATING)
def test_stated_results_are_right(page: str) -> None:
    """An expression followed by ``# -> value`` gives that value, to the digits that are stated."""
    namespace: dict[str, Any] = {}
    checked = 0
    for line, program in blocks(page):
        if "to_onnx(" in program or "out=" in program or ".save(" in program:
            continue
        exec(compile("\n" * line + program, page, "exec"), namespace)  # noqa: S102
        for source, stated in re.findall(r"^([^#\n]+?)\s+# -> (.+)$", program, re.MULTILINE):
            value = eval(source, namespace)  # noqa: S307 (our own page)
            expected = ast.literal_eval(stated)
            np.testing.assert_allclose(value, expected, atol=0.006, err_msg=f"{page}: {source}")
            checked += 1
    assert checked
