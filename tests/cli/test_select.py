"""``dgmm select``: the best model in a file, a table on standard error, one JSON line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dgmm.cli.values import component_counts

KEYS = [
    "model", "criterion", "covariance_type", "n_components", "rows", "iterations", "passes",
    "converged", "log_likelihood", "bic", "aic", "icl", "heldout", "candidates", "seconds",
    "peak_memory",
]  # fmt: skip


def test_the_best_is_written_and_told(dgmm, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    families = ("--covariance-type", "full", "--covariance-type", "diag")
    run = dgmm("select", rows, "-k", "1:3", *families, "--out", out)
    assert run.code == 0, run.err
    assert run.out.count("\n") == 1
    assert list(run.record) == KEYS
    best = min(run.record["candidates"], key=lambda row: row["bic"])
    assert len(run.record["candidates"]) == 6
    for name in ("covariance_type", "n_components", "bic"):
        assert run.record[name] == best[name]
    assert run.record["heldout"] is None
    lines = [line for line in run.err.splitlines() if "│ *" in line]
    assert len(lines) == 1
    assert best["covariance_type"] in lines[0]
    model = dgmm("inspect", out).record
    assert model["n_components"] == best["n_components"]
    assert dgmm("score", out, rows).record["bic"] == pytest.approx(best["bic"], rel=1e-9)


def test_rows_are_held_out_by_option(dgmm, rows: Path, tmp_path: Path) -> None:
    options = ("--criterion", "heldout", "--holdout", 0.4, "--seed", 3, "-q")
    run = dgmm("select", rows, "-k", "2", *options, "--out", tmp_path / "m")
    assert (run.code, run.err) == (0, "")
    assert 150 < run.record["rows"] < 210
    assert run.record["heldout"] == run.record["candidates"][0]["heldout"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-k", "0:3"), "1:10"),
        (("-k", "3:1"), "1:10"),
        (("-k", "two"), "1:10"),
        (("--criterion", "luck"), "luck"),
        (("--holdout", "1"), "holdout"),
        (("--covariance-type", "round"), "round"),
        (("--out", "/nowhere/at/all"), "does not exist"),
    ],
)
def test_impossible_options_are_usage(dgmm, rows: Path, tmp_path: Path, options, words) -> None:
    run = dgmm("select", rows, "--out", tmp_path / "no", "-q", *options)
    assert run.code == 2
    assert words in run.err
    assert run.err.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_bad_data_is_65(dgmm, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not an array")
    assert dgmm("select", tmp_path / "x.npy", "--out", tmp_path / "m").code == 65


def test_counts_of_components() -> None:
    assert component_counts("1:4") == [1, 2, 3, 4]
    assert component_counts("2,4,8") == [2, 4, 8]
    assert component_counts("1:3,8") == [1, 2, 3, 8]


def test_rows_count_by_their_weights(dgmm, rows: Path, tmp_path: Path) -> None:
    x, copies = np.load(rows), np.random.default_rng(0).integers(0, 4, 300)
    np.save(tmp_path / "repeated.npy", np.repeat(x, copies, axis=0))
    np.save(tmp_path / "weights.npy", copies.astype(float))
    options = ("-k", "2,3", "--tol", "1e-7", "-q", "--out", tmp_path / "m")
    run = dgmm("select", rows, *options, "--sample-weight", tmp_path / "weights.npy")
    assert run.code == 0, run.err
    assert run.record["rows"] == np.count_nonzero(copies)
    # Two clusters apart: every start leads to them.
    best = run.record["candidates"][0]
    again = dgmm("select", tmp_path / "repeated.npy", *options).record["candidates"][0]
    for name in ("log_likelihood", "bic", "aic", "icl"):
        assert best[name] == pytest.approx(again[name], rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [("--algorithm", "cem"), ("--annealing", "4,1"), ("--labels", "LABELS"),
     ("--weight-concentration-prior", 2), ("--mean-prior", 0, "--mean-precision-prior", 1),
     ("--empty-components", "drop")],
    ids=lambda options: options[0],
)  # fmt: skip
def test_options_of_fits_are_those_of_selections(dgmm, rows, tmp_path: Path, options) -> None:
    np.save(tmp_path / "labels.npy", np.r_[np.zeros(5), np.ones(5), np.full(290, -1)].astype(int))
    given = [tmp_path / "labels.npy" if one == "LABELS" else one for one in options]
    run = dgmm("select", rows, "-k", "2:3", "--out", tmp_path / "m", "-q", *given)
    assert run.code == 0, run.err
    alone = dgmm("fit", rows, "-k", 2, "--out", tmp_path / "one", "-q", *given)
    if options[0] != "--labels":  # there the likelihood is that of the labels too
        first = run.record["candidates"][0]["log_likelihood"]
        assert first == pytest.approx(alone.record["log_likelihood"], rel=1e-6)
    for command in ("select", "fit"):
        assert options[0] in dgmm(command, "--help").out


def test_labels_lie_below_the_smallest_size(dgmm, rows, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.r_[np.zeros(150), np.ones(150)].astype(int))
    labels = ("--labels", tmp_path / "labels.npy")
    run = dgmm("select", rows, "-k", "1:3", "--out", tmp_path / "m", "-q", *labels)
    assert run.code == 65
    assert "row 150 has 1, and there are 1 components" in run.err


def test_the_table_shows_what_the_criteria_differ_by(dgmm, rows, tmp_path: Path) -> None:
    run = dgmm("select", rows, "-k", "1:3", "--out", tmp_path / "m")
    for row in run.record["candidates"]:
        assert f"{row['bic']:.2f}" in run.err
        assert f"{row['log_likelihood']:.6f}" in run.err


def test_what_became_of_components_of_every_candidate_is_told(dgmm, tmp_path: Path) -> None:
    """Two places for rows, and a third component that finds none."""
    np.save(tmp_path / "x.npy", np.repeat([[0.0, 0.0], [9.0, 5.0]], 100, axis=0))
    given = ("-k", "2:3", "--covariance-floor", 0.1, "--out", tmp_path / "m")
    run = dgmm("select", tmp_path / "x.npy", *given)
    assert run.code == 0, run.err
    assert run.record["n_components"] == 2
    two, three = run.record["candidates"]
    assert two["notes"] == ""
    assert "components 2 were without rows" in three["notes"]
    assert f"note: full, 3 components: {three['notes']}" in run.err
    assert "note: full, 2 components" not in run.err
