"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import zarr

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def in_a_folder_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("rows.zarr", "new.zarr"):
        x = rng.normal(size=(2000, 3)) + rng.integers(4, size=(2000, 1)) * 6.0
        zarr.create_array(name, data=x, chunks=(500, 3))


def test_the_first_snippet_runs() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)  # noqa: S102
    assert zarr.open_array("labels.zarr").shape == (2000,)
    assert Path("model.safetensors").stat().st_size > 0


def test_the_store_with_checksums_can_be_fitted(tmp_path: Path) -> None:
    import shutil

    import dgmm

    shutil.rmtree("rows.zarr")
    snippet = next(block for block in BLOCKS if "create_array" in block)
    x = np.random.default_rng(0).normal(size=(1000, 3))
    exec(snippet, {"x": x})  # noqa: S102
    assert dgmm.GaussianMixture(2, random_state=0).fit("rows.zarr").record_.rows == 1000
