"""The Python on the pages of the documentation runs, block after block in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["scikit-learn.md"]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    assert found
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in found:
        # Blank lines before it, so that a failure names the line of the page.
        lines = "\n" * text[: block.start(1)].count("\n")
        code = compile(lines + block.group(1), str(DOCS / page), "exec")
        exec(code, namespace)  # noqa: S102 (our own pages)
