"""The demo from photographs to the page, on a crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dgmm
from dgmm.demo import fit_patches
from dgmm.demo.patches import Patches, local_contrast, sample_photographs

KEYS = {
    "model",
    "rows",
    "iterations",
    "passes",
    "converged",
    "log_likelihood",
    "bic",
    "seconds",
    "peak_memory",
}


@pytest.fixture
def patches() -> Patches:
    crops = tuple(local_contrast(one)[200:240, 300:340] for one in sample_photographs())
    return Patches(crops, size=4)


# So few iterations on so few rows need not converge.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_crop_goes_all_the_way(tmp_path: Path, patches: Patches) -> None:
    events = []
    report = tmp_path / "report.html"
    facts = fit_patches(
        patches, tmp_path, report, memory_limit="256MiB", seed=0, on_event=events.append
    )
    assert set(facts) == KEYS
    assert facts["rows"] == patches.n_rows == 2 * 8 * 37 * 37
    assert facts["passes"] > facts["iterations"] > 1
    assert np.isfinite(facts["log_likelihood"])
    assert {"write", "iteration"} <= {event.kind for event in events}
    page = report.read_text(encoding="utf-8")
    assert "From the photographs" in page
    assert "256 MiB" in page
    model = dgmm.GaussianMixture.load(facts["model"])
    rows = patches.rows(0, patches.n_rows)
    assert model.score(rows) == pytest.approx(facts["log_likelihood"], rel=1e-6)
