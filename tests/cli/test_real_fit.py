"""The command line over the real estimator, as programs that other programs call."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from dgmm import GaussianMixture
from dgmm.data.opening import open_dataset
from dgmm.storage import read_model


def program(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dgmm", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def last_line(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clusters as a .npy file and as chunked Zarr arrays."""
    folder = tmp_path_factory.mktemp("cli")
    x = np.random.default_rng(1).normal(size=(4000, 3))
    x[:1000] += 12
    np.save(folder / "rows.npy", x)
    zarr.create_array(folder / "rows.zarr", data=x, chunks=(500, 3))
    zarr.create_array(folder / "small-chunks.zarr", data=x, chunks=(100, 3))
    return folder


@pytest.fixture(scope="module")
def fitted(folder: Path) -> tuple[Path, dict]:
    out = folder / "model.safetensors"
    done = program("fit", folder / "rows.npy", "-k", 2, "--n-init", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, last_line(done.stdout)


def test_parquet_with_chosen_columns_and_bad_rows(folder: Path, dgmm) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    x = np.load(folder / "rows.npy")
    x[[3, 2500], 1] = np.nan
    columns = {"a": x[:, 0], "b": x[:, 1], "name": ["n"] * len(x)}
    parquet.write_table(pa.table(columns), folder / "rows.parquet", row_group_size=1000)
    out = folder / "parquet.safetensors"
    common = ("--columns", "a, b", "--on-bad-rows", "skip")
    done = dgmm("fit", folder / "rows.parquet", "-k", 2, "--out", out, *common)
    assert done.code == 0, done.err
    assert (done.record["rows"], done.record["skipped_rows"]) == (4000, 2)
    assert "note: skipped: 2 bad rows" in done.err
    scored = dgmm("score", out, folder / "rows.parquet", *common).record
    assert scored["log_likelihood"] == pytest.approx(done.record["log_likelihood"])
    assert scored["skipped_rows"] == 2
    refused = dgmm("score", out, folder / "rows.parquet", *common, "--max-skipped", 0.0001)
    assert refused.code == 65
    assert "more than --max-skipped 0.0001: 2 bad rows" in refused.err


def test_fit_finds_the_clusters(fitted: tuple[Path, dict]) -> None:
    path, record = fitted
    assert record["rows"] == 4000
    assert record["converged"] is True
    assert record["iterations"] >= 1
    assert record["passes"] > record["iterations"]
    assert record["peak_memory"] > 0
    tensors, _ = read_model(path)
    np.testing.assert_allclose(np.sort(tensors["weights"]), [0.25, 0.75], atol=1e-6)


def test_score_agrees_with_fit(folder: Path, dgmm, fitted: tuple[Path, dict]) -> None:
    path, record = fitted
    run = dgmm("score", path, folder / "rows.npy")
    assert run.code == 0
    assert run.record["log_likelihood"] == pytest.approx(record["log_likelihood"], rel=1e-9)
    assert run.record["bic"] == pytest.approx(record["bic"], rel=1e-9)


def models_of(dgmm, folder: Path, option: str, *counts: int) -> set[bytes]:
    """The model files of fits in 40 blocks, on so many threads or workers."""
    files = set()
    for count in counts:
        out = folder / f"{option}-{count}.safetensors"
        where = ("--block-bytes", "2KiB", option, count, "--out", out, "-q")
        start = ("--init-params", "random_from_data")
        run = dgmm("fit", folder / "small-chunks.zarr", "-k", 2, *start, *where)
        assert run.code == 0, run.err
        assert run.record["iterations"] >= 3
        files.add(out.read_bytes())
    return files


def test_threads_do_not_change_a_byte(folder: Path, dgmm) -> None:
    assert len(open_dataset(folder / "small-chunks.zarr", block_bytes=2048).blocks) == 40
    assert len(models_of(dgmm, folder, "--n-threads", 1, 2, 4)) == 1


@pytest.mark.slow
def test_a_cluster_does_not_change_a_byte(folder: Path, dgmm) -> None:
    of_threads = models_of(dgmm, folder, "--n-threads", 1, 2, 4)
    assert len(of_threads) == 1
    assert models_of(dgmm, folder, "--n-workers", 1, 2, 3) == of_threads


def test_predict_streams_to_zarr(folder: Path, dgmm, fitted: tuple[Path, dict]) -> None:
    path, _ = fitted
    shapes = {(): (4000,), ("--proba",): (4000, 2), ("--distances",): (4000, 2)}
    shapes |= {(f"--{one}",): (4000,) for one in ("scores", "outlier-scores", "tail-probability")}
    for flags, shape in shapes.items():
        out = folder / f"out{''.join(flags)}.zarr"
        run = dgmm("predict", path, folder / "rows.zarr", "--out", out, *flags)
        assert run.code == 0, run.err
        assert zarr.open_array(out, mode="r").shape == shape
    labels = zarr.open_array(folder / "out.zarr", mode="r")[:]
    assert len(set(labels[:1000])) == 1
    assert len(set(labels[1000:])) == 1


def test_a_result_is_replaced_if_one_asks_for_it(tmp_path: Path, folder, dgmm, fitted) -> None:
    args = ("predict", fitted[0], folder / "rows.zarr", "--out", tmp_path / "o.zarr")
    assert dgmm(*args).code == 0
    again = dgmm(*args)
    assert again.code == 2
    assert "--overwrite" in again.err
    run = dgmm(*args, "--overwrite", "--proba")
    assert run.code == 0, run.err
    assert zarr.open_array(tmp_path / "o.zarr", mode="r").shape == (4000, 2)


def test_a_result_of_bad_rows_is_taken_away(tmp_path: Path, dgmm, fitted) -> None:
    x = np.ones((4000, 3))
    x[3999] = np.nan
    zarr.create_array(tmp_path / "bad.zarr", data=x, chunks=(100, 3))
    options = ("--block-bytes", "2KiB", "--out", tmp_path / "o.zarr")
    assert dgmm("predict", fitted[0], tmp_path / "bad.zarr", *options).code == 65
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_store_without_credentials_is_75(tmp_path, folder, fitted, monkeypatch, command) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    from botocore.exceptions import NoCredentialsError

    async def fail(*args: object, **kwargs: object) -> None:
        raise NoCredentialsError

    from dgmm.cli import main

    monkeypatch.setattr("s3fs.S3FileSystem._cat_file", fail)
    url = "s3://bucket/x.zarr"
    args = {
        "fit": ["fit", url, "-k", "2", "--out", str(tmp_path / "m")],
        "predict": ["predict", str(fitted[0]), str(folder / "rows.npy"), "--out", url],
    }
    assert main(args[command]) == 75


def test_a_full_disk_is_75(folder: Path, tmp_path: Path, dgmm, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    run = dgmm("fit", folder / "rows.npy", "-k", 1, "--out", tmp_path / "m", "-q")
    assert run.code == 75
    assert "cannot write the model" in run.err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def weights(folder: Path) -> np.ndarray:
    """Counts, in files and as the last column of the rows."""
    x, copies = np.load(folder / "rows.npy"), np.random.default_rng(3).integers(0, 3, 4000)
    np.save(folder / "weights.npy", copies.astype(float))
    zarr.create_array(folder / "weights.zarr", data=copies.astype(float), chunks=700)
    np.save(folder / "with-weights.npy", np.column_stack([x, copies]))
    return copies


@pytest.mark.parametrize(
    ("data", "place"),
    [("rows.npy", "weights.npy"), ("rows.zarr", "weights.zarr"), ("with-weights.npy", "3"),
     ("with-weights.npy", "-1")],
)  # fmt: skip
def test_fit_and_score_take_weights(folder: Path, dgmm, weights, data, place) -> None:
    place = place if place in {"3", "-1"} else folder / place
    out = folder / "weighted.safetensors"
    run = dgmm("fit", folder / data, "-k", 2, "--sample-weight", place, "--out", out, "-q")
    assert run.code == 0, run.err
    mixture = GaussianMixture.load(out)
    x = np.load(folder / "rows.npy")
    shares = sorted(weights[part].sum() / weights.sum() for part in (x[:, 0] > 6, x[:, 0] <= 6))
    np.testing.assert_allclose(np.sort(mixture.weights_), shares, atol=1e-6)
    evaluation = mixture.evaluate(x, weights)
    assert run.record["bic"] == pytest.approx(evaluation.bic, rel=1e-9)
    scored = dgmm("score", out, folder / data, "--sample-weight", place)
    assert scored.code == 0, scored.err
    for name in ("log_likelihood", "bic", "aic"):
        assert scored.record[name] == pytest.approx(getattr(evaluation, name), rel=1e-9)


VARIANTS = {
    "labels": ({}, ("--labels", "labels.npy")),
    "cem": ({"algorithm": "cem"}, ("--algorithm", "cem")),
    "sem": ({"algorithm": "sem", "max_iter": 5}, ("--algorithm", "sem", "--max-iter", 5)),
    "annealed": ({"annealing": [4.0, 2.0, 1.0]}, ("--annealing", "4:1:3")),
    "priors": (
        {
            "weight_concentration_prior": 2.0,
            "mean_prior": [0.0, 1.0],
            "mean_precision_prior": 5.0,
            "covariance_prior": 2.0,
            "degrees_of_freedom_prior": 6.0,
        },
        ("--weight-concentration-prior", 2, "--mean-prior", "0,1", "--mean-precision-prior", 5,
         "--covariance-prior", 2, "--degrees-of-freedom-prior", 6),
    ),
    "floor": ({"covariance_floor": 1.5}, ("--covariance-floor", 1.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_fit_takes_labels_variants_and_priors(tmp_path: Path, dgmm, name) -> None:
    # So close that every variant ends elsewhere.
    x = np.random.default_rng(2).normal(size=(800, 2))
    x[:300] += 2.0
    labels = np.where(np.arange(800) % 7, -1, np.arange(800) < 300)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "labels.npy", labels)
    arguments, given = VARIANTS[name]
    given = [tmp_path / one if one == "labels.npy" else one for one in given]
    run = dgmm("fit", tmp_path / "x.npy", "-k", 2, *given, "--out", tmp_path / "m", "-q")
    assert run.code == 0, run.err
    found = GaussianMixture.load(tmp_path / "m").means_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = GaussianMixture(2, random_state=0, **arguments)
        expected.fit(tmp_path / "x.npy", labels=labels if name == "labels" else None)
        plain = GaussianMixture(2, random_state=0).fit(tmp_path / "x.npy")
    np.testing.assert_array_equal(found, expected.means_)
    assert np.abs(found - plain.means_).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--sample-weight", "none.npy"), 65, "none.npy: no such file"),
        (("--sample-weight", "7"), 2, "--sample-weight 7 is no column of X, which has 3"),
        (("--sample-weight", "BAD"), 65, "--sample-weight is negative: row 5"),
        (("--labels", "WIDE"), 65, "row 0 has 9"),
        (("--annealing", "1,2"), 2, "--annealing 1.0,2.0; it must be a decreasing"),
        (("--algorithm", "cem", "--annealing", "2,1"), 2, "--algorithm cem"),
        (("--mean-prior", "0"), 2, "--mean-prior is given without --mean-precision-prior"),
        (("--degrees-of-freedom-prior", "1", "--covariance-prior", "1"), 2, "must exceed 2"),
        (("--max-iter", "3", "--annealing", "4:1:5"), 2, "raise --max-iter above"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_bad_weights_and_variants(folder, dgmm, weights, tmp_path, options, code, words) -> None:
    np.save(tmp_path / "bad.npy", np.where(np.arange(4000) == 5, -1.0, 1.0))
    np.save(tmp_path / "wide.npy", np.full(4000, 9))
    places = {"BAD": tmp_path / "bad.npy", "WIDE": tmp_path / "wide.npy"}
    given = [places.get(one, one) for one in options]
    run = dgmm("fit", folder / "rows.npy", "-k", 2, "--out", tmp_path / "no", "-q", *given)
    assert run.code == code, run.err
    assert words in run.err
    assert run.err.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_inspect_shows_the_family(dgmm, fitted: tuple[Path, dict]) -> None:
    run = dgmm("inspect", fitted[0])
    assert run.code == 0
    assert run.record["covariance_type"] == "full"
    assert (run.record["n_components"], run.record["n_features"]) == (2, 3)


@pytest.mark.parametrize(
    "options",
    [
        ("--covariance-type", "round"),
        ("--init-params", "luck"),
        ("--dtype", "int8"),
        ("--device", "abacus"),
        ("--memory-limit", "1KiB"),
        ("--tol", "nan"),
    ],
    ids=lambda options: options[0],
)
def test_impossible_options_are_usage(folder: Path, dgmm, options: tuple[str, ...]) -> None:
    run = dgmm("fit", folder / "rows.npy", "-k", 2, "--out", folder / "no", "-q", *options)
    assert run.code == 2, run.err
    assert run.err.count("\n") == 1
    assert not (folder / "no").exists()


def test_a_report_can_be_asked_for(folder: Path, dgmm) -> None:
    page = folder / "report.html"
    options = ("--out", folder / "reported", "--report", page, "-q")
    run = dgmm("fit", folder / "rows.npy", "-k", 2, *options)
    assert run.code == 0, run.err
    assert page.read_text().lstrip().lower().startswith("<!doctype html")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_fit_with_75(tmp_path: Path, number: signal.Signals) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(200_000, 8)))
    args = ["fit", "rows.npy", "-k", "8", "--tol", "0", "--max-iter", "100000", "--out", "m", "-v"]
    # A build in the background may have SIGINT ignored, which its children inherit.
    text = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dgmm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text, *args],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        for line in running.stderr:
            if line.startswith("iteration"):
                break
        started = time.monotonic()
        os.kill(running.pid, number)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 75
    assert time.monotonic() - started < 30
    assert err.splitlines()[-1].startswith("dgmm: error: interrupted")
    assert out == ""
    assert not (tmp_path / "m").exists()


def test_a_fit_starts_from_a_model_and_holds_what_it_is_told(folder, fitted, dgmm) -> None:
    start, out = fitted[0], folder / "held.safetensors"
    held = ("--fixed", "means:1", "--fixed", "covariances")
    done = dgmm("fit", folder / "rows.zarr", "--start", start, *held, "--out", out)
    assert done.code == 0, done.err
    before, after = GaussianMixture.load(start).mixture_, GaussianMixture.load(out).mixture_
    assert np.array_equal(after.means[1], before.means[1])
    assert np.array_equal(after.covariances, before.covariances)
    # Where EM ends is a better start than where k-means does.
    assert done.record["iterations"] < 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-k", 3), "--n-components 3, and"),
        (("--covariance-type", "diag"), "--covariance-type diag, and"),
        (("--fixed", "mean"), "'mean' is none of"),
        (("--fixed", "means:x"), "'means:x' is not like"),
        (("--fixed", "means", "--fixed", "means:0"), "named twice"),
    ],
)
def test_starts_that_contradict_are_refused(folder, fitted, dgmm, options, said) -> None:
    out = folder / "never.safetensors"
    done = dgmm("fit", folder / "rows.npy", "--start", fitted[0], *options, "--out", out)
    assert done.code == 2
    assert said in done.err
    assert not out.exists()


def test_a_model_is_no_start_in_its_own_place(folder, fitted, dgmm) -> None:
    before = fitted[0].read_bytes()
    done = dgmm("fit", folder / "rows.npy", "--start", fitted[0], "--out", fitted[0])
    assert done.code == 2
    assert "would overwrite" in done.err
    assert fitted[0].read_bytes() == before


def test_sample_streams_what_python_draws(folder, fitted, dgmm) -> None:
    rows, labels = folder / "drawn.zarr", folder / "drawn-labels.zarr"
    command = ("sample", fitted[0], "-n", 70_000, "--seed", 5, "--std-range", "1:2")
    done = dgmm(*command, "--out", rows, "--labels-out", labels)
    assert done.code == 0, done.err
    model = GaussianMixture.load(fitted[0]).set_params(random_state=5)
    x, y = model.sample(70_000, std_range=(1, 2))
    assert np.array_equal(zarr.open_array(rows)[:], x)
    assert np.array_equal(zarr.open_array(labels)[:], y)
    again = dgmm(*command, "--out", rows)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert dgmm("sample", fitted[0], "-n", 3, "--out", rows, "--overwrite").code == 0
    assert zarr.open_array(rows).shape == (3, 3)
    both = dgmm("sample", fitted[0], "-n", 3, "--out", rows, "--labels-out", rows, "--overwrite")
    assert both.code == 2
    assert "one place" in both.err
    assert zarr.open_array(rows).shape == (3, 3)


def test_export_writes_what_onnx_runs(folder, fitted, dgmm) -> None:
    pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    out = folder / "model.onnx"
    done = dgmm("export", fitted[0], "--out", out)
    assert done.code == 0, done.err
    x = np.load(folder / "rows.npy")[:500]
    (labels,) = runtime.InferenceSession(out).run(["label"], {"X": x})
    assert np.array_equal(labels.ravel(), GaussianMixture.load(fitted[0]).predict(x))
    assert dgmm("export", fitted[0], "--out", fitted[0]).code == 2
