"""Commands against a stand-in for the estimator: arguments, the JSON line, exit codes, secrets."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zarr

from dgmm import errors
from dgmm.cli import main
from dgmm.cli.exits import Exit, exit_of
from dgmm.cli.values import temperatures
from dgmm.cli.wording import in_options
from dgmm.data.sink import Replacing

FIT_KEYS = [
    "model",
    "rows",
    "iterations",
    "passes",
    "converged",
    "log_likelihood",
    "bic",
    "seconds",
    "peak_memory",
]


# ------------------------------------------------------------------------------------------- fit


def test_fit_prints_one_json_line(dgmm, rows, stub, tmp_path) -> None:
    out = tmp_path / "model.safetensors"
    run = dgmm("fit", rows, "-k", 2, "--out", out)
    assert run.code == 0
    assert run.out.count("\n") == 1
    assert list(run.record) == FIT_KEYS
    assert run.record | {"seconds": 0} == {
        "model": str(out),
        "rows": 300,
        "iterations": 2,
        "passes": 5,
        "converged": True,
        "log_likelihood": -3.5,
        "bic": 10.0,
        "seconds": 0,
        "peak_memory": 12345,
    }
    assert out.exists()


def test_fit_hands_its_options_on(dgmm, rows, stub, tmp_path) -> None:
    run = dgmm(
        "fit", rows, "-k", 3, "--covariance-type", "diag", "--n-init", 4, "--seed", 7,
        "--halve-after", 5, "--acceleration", "auto", "--empty-components", "reseed",
        "--tol", 0, "--reg-covar", 0, "--max-iter", 9, "--init-params", "random", "--dtype",
        "float32", "--device", "cpu", "--memory-limit", "512MiB", "--n-threads", 2,
        "--out", tmp_path / "m",
    )  # fmt: skip
    assert run.code == 0
    given = stub.parameters[0]
    assert type(given.pop("engine")).__name__ == "LocalEngine"
    assert given == {
        "n_components": 3,
        "covariance_type": "diag",
        "n_init": 4,
        "halve_after": 5,
        "empty_components": "reseed",
        "acceleration": "auto",
        "random_state": 7,
        "tol": 0.0,
        "reg_covar": 0.0,
        "max_iter": 9,
        "init_params": "random",
        "dtype": "float32",
        "device": "cpu",
        "memory_limit": 512 * 2**20,
        "algorithm": "em",
    }


def test_fit_hands_variants_and_priors_on(dgmm, rows, stub, tmp_path) -> None:
    run = dgmm(
        "fit", rows, "-k", 3, "--algorithm", "sem", "--annealing", "4,2", "--covariance-floor", 0.1,
        "--acceleration", "auto",
        "--weight-concentration-prior", 1.5, "--mean-prior", "0,-2", "--mean-precision-prior", 0.01,
        "--covariance-prior", 2, "--degrees-of-freedom-prior", 4, "--out", tmp_path / "m",
    )  # fmt: skip
    assert run.code == 0, run.err
    expected = {
        "algorithm": "sem",
        "acceleration": "auto",
        "annealing": [4.0, 2.0],
        "covariance_floor": 0.1,
        "weight_concentration_prior": 1.5,
        "mean_prior": [0.0, -2.0],
        "mean_precision_prior": 0.01,
        "covariance_prior": 2.0,
        "degrees_of_freedom_prior": 4.0,
    }
    assert expected.items() <= stub.parameters[0].items()


def test_progress_goes_to_standard_error(dgmm, rows, stub, tmp_path) -> None:
    run = dgmm("fit", rows, "-k", 2, "-v", "--out", tmp_path / "m")
    assert run.err.splitlines() == [
        "profile: 300 rows",
        "iteration 1, lower bound -4.000000 per row, 2 restarts running",
        "iteration 2, lower bound -3.500000 per row, change 5.00e-01, 2 restarts running",
        "retired: restart 1: [singular]",
        "done after 2 iterations, lower bound -3.500000 per row",
        "note: column 1 is constant",
    ]


def test_quiet_says_nothing(dgmm, rows, stub, tmp_path) -> None:
    assert dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m", "--quiet").err == ""


def test_json_is_strict(dgmm, rows, stub, tmp_path) -> None:
    stub.log_likelihood = float("-inf")
    assert dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m").record["log_likelihood"] is None


def test_a_report_is_written_from_the_model(dgmm, rows, stub, tmp_path, monkeypatch) -> None:
    written = []
    module = ModuleType("dgmm.report")
    module.write_report = lambda *args, evaluation: written.append((args[0], evaluation.bic))
    monkeypatch.setitem(sys.modules, "dgmm.report", module)
    page = tmp_path / "report.html"
    assert dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m", "--report", page).code == 0
    assert written == [(page, 10.0)]


def test_a_report_that_cannot_be_written_is_refused_before_the_fit(
    dgmm, stub, tmp_path, monkeypatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("dgmm.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    # The data do not even exist: nothing was opened.
    args = ("-k", 2, "--out", tmp_path / "m", "--report", tmp_path / "r.html")
    run = dgmm("fit", tmp_path / "none.npy", *args)
    assert run.code == 2
    assert 'pip install "dgmm[report]"' in run.err


# ------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidParameterError("x"), 2),
        (errors.MemoryLimitError("x"), 2),
        (errors.MissingDependencyError("x"), 2),
        (errors.InvalidDataError("x"), 65),
        (errors.InvalidDtypeError("x"), 65),
        (errors.SingularMixtureError("x"), 65),
        (errors.SourceError("x"), 65),
        (errors.MissingChunkError("x"), 65),
        (errors.DamagedBlockError("x"), 65),
        (errors.ModelFileError("x"), 65),
        (errors.StoreUnavailableError("x"), 75),
        (errors.EngineError("x"), 75),
        (errors.SchedulerLostError("x"), 75),
        (errors.DeadlyBlockError("x"), 65),
        (KeyboardInterrupt(), 75),
        (OSError(28, "No space left on device"), 75),
        (MemoryError(), 75),
        (ZeroDivisionError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_end_in_a_line_and_a_code(dgmm, rows, stub, tmp_path, error, code) -> None:
    stub.fail = error
    run = dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m", "-q")
    assert run.code == code
    assert run.out == ""
    # click puts the message of Ctrl-C on a line of its own, below the ^C.
    assert run.err.lstrip().startswith("dgmm: error: ")
    assert run.err.strip().count("\n") == 0
    assert not (tmp_path / "m").exists()


def test_every_error_of_ours_has_a_code() -> None:
    for name in errors.__all__:
        if name.endswith("Warning"):
            continue
        assert exit_of(getattr(errors, name)("x")) in {Exit.USAGE, Exit.DATA, Exit.AGAIN}


def test_debug_shows_the_traceback_first(dgmm, rows, stub, tmp_path) -> None:
    stub.fail = errors.InvalidDataError("block 3,\nrow 17")
    run = dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m", "--debug", "-q")
    assert run.err.startswith("Traceback")
    assert run.err.splitlines()[-1] == "dgmm: error: block 3, row 17"


def test_sigterm_ends_as_ctrl_c_does(dgmm, rows, stub, tmp_path, monkeypatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "dgmm.cli.options.check_out", lambda path: os.kill(os.getpid(), signal.SIGTERM) or path
    )
    run = dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m", "-q")
    assert run.code == 75
    assert "interrupted" in run.err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing argument 'DATA'"),
        (["ROWS", "--out", "m"], "-k"),
        (["ROWS", "-k", "0", "--out", "m"], "x>=1"),
        (["ROWS", "-k", "2"], "--out"),
        (["ROWS", "-k", "2", "--out", "/no/such/m"], "/no/such does not exist"),
        (["ROWS", "-k", "2", "--out", "DIR"], "is a directory"),
        (["ROWS", "-k", "2", "--out", "m", "--report", "/no/such/r"], "does not exist"),
        (["ROWS", "-k", "2", "--out", "m", "--memory-limit", "lots"], "256MiB"),
        (["ROWS", "-k", "2", "--out", "m", "--memory-limit", "512"], "512 bytes, which nothing"),
        (["ROWS", "-k", "2", "--out", "m", "--memory-limit", "512"], "512MiB?"),
        (["ROWS", "-k", "2", "--out", "m", "--block-bytes", "0"], "at least 1 byte"),
        (["ROWS", "-k", "2", "--out", "m", "--algorithm", "vb"], "'em', 'cem', 'sem'"),
        (["ROWS", "-k", "2", "--out", "m", "--annealing", "8:1"], "8:1:20"),
        (["ROWS", "-k", "2", "--out", "m", "--annealing", "hot"], "8:1:20"),
        (["ROWS", "-k", "2", "--out", "m", "--mean-prior", "a,b"], "0,0.5,-2"),
        (["ROWS", "-k", "2", "--out", "m", "--covariance-floor", "0"], "x>0"),
        (["ROWS", "-k", "2", "--out", "m", "--scheduler", "a", "--n-workers", "1"], "starts one"),
        (["ROWS", "-k", "2", "--out", "m", "--engine", "local", "--n-workers", "1"], "dask"),
        (["ROWS", "-k", "2", "--out", "m", "--engine", "dask", "--n-threads", "1"], "local"),
        (["ROWS", "-k", "2", "--out", "m", "--scheduler", "tls://a:1"], "needs --tls-ca-file"),
        (["ROWS", "-k", "2", "--out", "m", "--tls-cert", "ROWS"], "tls:// scheduler"),
        (["ROWS", "-k", "2", "--out", "m", "--tls-cert", "none"], "'none' does not exist"),
        (["ROWS", "-k", "2", "--out", "m", "--worker-timeout", "0"], "range 0<x"),
        (["ROWS", "-k", "2", "--out", "m", "--progress-timeout", "inf"], "<=1000000000"),
        (["ROWS", "-k", "2", "--out", "m", "--scheduler-timeout", "0"], "range 0<x"),
        (["ROWS", "-k", "2", "--out", "m", "--what"], "--what"),
    ],
)
def test_usage(dgmm, rows, stub, tmp_path, monkeypatch, args, message) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"ROWS": str(rows), "DIR": str(tmp_path)}
    run = dgmm("fit", *(names.get(arg, arg) for arg in args))
    assert run.code == 2
    assert message in run.err
    assert run.err.count("\n") == 1
    assert "--help" in run.err


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["fit", "--help"], ["demo", "--help"]])
def test_help_is_not_an_error(dgmm, args) -> None:
    run = dgmm(*args)
    assert run.code == 0
    assert "dgmm" in run.out


def test_without_a_command_there_is_help_and_no_error(dgmm) -> None:
    run = dgmm()
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("Usage: dgmm")
    assert "fit" in run.err
    assert "error" not in run.err.lower()


@pytest.mark.parametrize("given", ["536870912", "1MiB", "0.5 GiB"])
def test_limits_that_are_meant_are_taken(dgmm, rows, stub, tmp_path, given) -> None:
    args = ("-k", 2, "--out", tmp_path / "m", "--memory-limit", given)
    assert dgmm("fit", rows, *args).code == 0
    assert dgmm("demo", "--memory-limit", "256", "--report", tmp_path / "r").code == 2


def test_messages_speak_of_options(dgmm, rows, stub, tmp_path) -> None:
    stub.fail = errors.MemoryLimitError(
        "memory_limit is 1 MiB; raise memory_limit, lower n_components=3 or use a smaller "
        "block_bytes; random_state=7, tol=nan; some labels in /a/memory_limit/x and my_tol=1"
    )
    run = dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m", "-q")
    assert run.err == (
        "dgmm: error: --memory-limit is 1 MiB; raise --memory-limit, lower --n-components 3 or use "
        "a smaller --block-bytes; --seed 7, --tol nan; some labels in /a/memory_limit/x and "
        "my_tol=1\n"
    )


def test_messages_name_the_options_of_their_own_command() -> None:
    commands = {name: main.__globals__["_dgmm"].commands[name] for name in ("select", "score")}
    text = "covariance_type='x', n_components=2, sample_weight is negative"
    assert in_options(text, commands["select"]) == (
        "--covariance-type x, --n-components 2, --sample-weight is negative"
    )
    assert in_options(text, commands["score"]) == (
        "covariance_type='x', n_components=2, --sample-weight is negative"
    )
    assert in_options(text, None) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pass algorithm='em' or 'sem', at once", "pass --algorithm em or sem, at once"),
        ("pass acceleration=None: it goes", "pass no --acceleration: it goes"),
        ("annealing=[1.0, 2.0]; it must", "--annealing 1.0,2.0; it must"),
        ("increase max_iter, tol, or check", "increase --max-iter, --tol, or check"),
        ("n_samples >= n_components but got n_components = 3, n_samples = 2",
         "n_samples >= n_components but got --n-components 3, n_samples = 2"),
        ("a callable (sample, n_components, seed) -> means",
         "a callable (sample, n_components, seed) -> means"),
        ("labels go by their numbers", "labels go by their numbers"),
    ],
)  # fmt: skip
def test_values_are_written_as_on_the_command_line(text, expected) -> None:
    assert in_options(text, main.__globals__["_dgmm"].commands["fit"]) == expected


def test_temperatures_are_listed_or_in_equal_ratios() -> None:
    assert temperatures("4,2.5,1") == [4.0, 2.5, 1.0]
    np.testing.assert_allclose(temperatures("8:1:20"), np.geomspace(8, 1, 20), rtol=1e-14)
    assert temperatures("8:1:20")[-1] == 1.0
    assert temperatures("2:1:1") == [1.0]


def test_bad_data_is_named(dgmm, stub, tmp_path) -> None:
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    for data in (tmp_path / "none.npy", tmp_path / "text.npy"):
        run = dgmm("fit", data, "-k", 2, "--out", tmp_path / "m")
        assert run.code == 65
        assert data.name in run.err or "dtype" in run.err


def test_an_unreachable_scheduler_is_worth_another_try(
    dgmm, rows, stub, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("dgmm.cli.engines._CONNECT_SECONDS", 1)
    run = dgmm(
        "fit", rows, "-k", 2, "--out", tmp_path / "m", "--scheduler", "tcp://me:secret@127.0.0.1:9"
    )
    assert run.code == 75
    assert "cannot reach the Dask scheduler tcp://127.0.0.1:9" in run.err
    assert "secret" not in run.err


@pytest.mark.parametrize("category", [errors.ConstantFeatureWarning, errors.EmptyComponentWarning])
def test_what_is_a_note_is_told_of_once(dgmm, rows, stub, tmp_path, monkeypatch, category) -> None:
    def warn(path: Path) -> Path:
        warnings.warn("column 1 is constant", category, stacklevel=1)
        warnings.warn("increase max_iter", UserWarning, stacklevel=1)
        return path

    monkeypatch.setattr("dgmm.cli.options.check_out", warn)
    run = dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m")
    assert run.err.count("column 1 is constant") == 1
    assert "dgmm: warning: increase --max-iter\n" in run.err


def test_warnings_are_lines(dgmm, rows, stub, tmp_path, monkeypatch) -> None:
    def warn(path: Path) -> Path:
        warnings.warn("at s3://key:secret@bucket/x?token=1", UserWarning, stacklevel=1)
        return path

    monkeypatch.setattr("dgmm.cli.options.check_out", warn)
    run = dgmm("fit", rows, "-k", 2, "--out", tmp_path / "m", "-q")
    assert run.err == "dgmm: warning: at s3://bucket/x\n"


# ------------------------------------------------------------------------------- predict, score


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ([], "labels"),
        (["--proba"], "proba"),
        (["--scores"], "scores"),
        (["--distances"], "distances"),
        (["--outlier-scores"], "outlier_scores"),
        (["--tail-probability"], "tail_probability"),
    ],
)
def test_predict(dgmm, model, rows, stub, tmp_path, flags, kind) -> None:
    out = str(tmp_path / "out.zarr")
    run = dgmm("predict", model, rows, "--out", out, *flags)
    assert run.code == 0
    assert stub.applied == [(kind, out)]
    assert run.record | {"seconds": 0} == {
        "model": str(model),
        "out": out,
        "kind": kind,
        "rows": 300,
        "seconds": 0,
    }


def test_predict_replaces_if_it_is_told_to(dgmm, model, rows, stub, tmp_path) -> None:
    out = str(tmp_path / "out.zarr")
    assert dgmm("predict", model, rows, "--out", out, "--overwrite").code == 0
    assert stub.applied == [("labels", Replacing(out))]


@pytest.mark.parametrize("command", ["fit", "select"])
def test_fits_never_replace_what_they_read(dgmm, tmp_path, monkeypatch, command) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(size=(60, 2)))
    np.save("w.npy", np.ones(60))
    os.symlink("x.npy", "link.npy")
    before = [Path(name).read_bytes() for name in ("x.npy", "w.npy")]
    weights = ("--sample-weight", "w.npy")
    for more in (("--out", "./x.npy"), ("--out", "link.npy"), (*weights, "--out", "w.npy")):
        run = dgmm(command, "x.npy", "-k", "2", *more)
        assert run.code == 2
        assert "would overwrite" in run.err
    if command == "fit":
        run = dgmm("fit", "x.npy", "-k", "2", "--out", "m", "--report", "x.npy")
        assert "--report would overwrite x.npy" in run.err
        run = dgmm("fit", "x.npy", "-k", "2", "--out", "m", "--report", "./m")
        assert run.code == 2
        assert "are the same file" in run.err
    assert [Path(name).read_bytes() for name in ("x.npy", "w.npy")] == before


@pytest.mark.parametrize("out", ["data.zarr", "./data.zarr", "link.zarr", "file://DIR/data.zarr"])
def test_predict_never_replaces_what_it_reads(dgmm, model, tmp_path, monkeypatch, out) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("data.zarr", "link.zarr")
    inside = tmp_path / "data.zarr" / "model"
    inside.parent.mkdir()
    inside.write_bytes(model.read_bytes())
    out = out.replace("DIR", str(tmp_path))
    for args in ((model, "data.zarr"), (inside, "other.zarr")):
        run = dgmm("predict", *args, "--out", out, "--overwrite")
        assert run.code == 2
        assert "--overwrite would delete" in run.err


def test_predict_refuses_two_results(dgmm, model, rows, stub, tmp_path) -> None:
    run = dgmm("predict", model, rows, "--out", tmp_path / "o", "--scores", "--outlier-scores")
    assert run.code == 2
    assert "--scores and --outlier-scores exclude each other" in run.err


def test_predict_hands_limits_on(dgmm, model, rows, stub, tmp_path) -> None:
    assert dgmm("predict", model, rows, "--out", tmp_path / "o", "--memory-limit", "1GiB").code == 0
    assert stub.parameters[-1]["memory_limit"] == 2**30


def test_score(dgmm, model, rows, stub) -> None:
    run = dgmm("score", model, rows)
    assert run.code == 0
    assert list(run.record) == ["model", "rows", "log_likelihood", "bic", "aic", "seconds"]
    assert run.record["log_likelihood"] == -3.5


def test_a_damaged_model_is_bad_data(dgmm, model, rows, stub) -> None:
    model.write_bytes(model.read_bytes()[:-1])
    run = dgmm("score", model, rows)
    assert run.code == 65
    assert "truncated" in run.err


# --------------------------------------------------------------------------------------- inspect


def test_inspect_a_model(dgmm, model, stub) -> None:
    run = dgmm("inspect", model)
    assert run.code == 0
    assert run.record == {
        "model": str(model),
        "covariance_type": "full",
        "n_components": 2,
        "n_features": 2,
        "weights": [0.25, 0.75],
        "arrays": {"weights": ["float64", 2]},
        "facts": {"covariance_type": "full", "n_init": 2},
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    for text in ("family", "full", "0.75, 0.25", "fact: n_init"):
        assert text in run.err


def test_inspect_data(dgmm, rows) -> None:
    run = dgmm("inspect", rows)
    assert run.code == 0
    expected = {"data": str(rows), "rows": 300, "n_features": 2, "dtype": "float64", "bytes": 4800}
    assert expected.items() <= run.record.items()
    assert "300" in run.err
    assert dgmm("inspect", rows, "-q").err == ""


STORED = {
    "npy": ({}, {"format": "npy", "checksum": None}),
    "default": ({}, {"codecs": ["bytes", "zstd"], "checksum": None}),
    "checked": (
        {"compressors": [zarr.codecs.Crc32cCodec()]},
        {"codecs": ["bytes", "crc32c"], "checksum": "crc32c"},
    ),
    "checked by zstd": (
        {"compressors": [zarr.codecs.ZstdCodec(checksum=True)]},
        {"codecs": ["bytes", "zstd"], "checksum": "zstd"},
    ),
    "sharded": (
        {"shards": (200, 2)},
        {"shards": [200, 2], "codecs": ["sharding_indexed", "bytes", "zstd"], "checksum": None},
    ),
    "shard of checked chunks": (
        {"shards": (200, 2), "compressors": [zarr.codecs.Crc32cCodec()]},
        {"shards": [200, 2], "checksum": "crc32c"},
    ),
    "zarr 2": (
        {"zarr_format": 2},
        {"format": "zarr 2", "codecs": ["zstd"], "checksum": None},
    ),
}


@pytest.mark.parametrize("kind", STORED)
def test_inspect_says_how_rows_are_stored(dgmm, rows, tmp_path, kind) -> None:
    options, expected = STORED[kind]
    path = rows
    if kind != "npy":
        path = tmp_path / "rows.zarr"
        zarr.create_array(path, data=np.load(rows), chunks=(100, 2), **options)
        expected = {"format": "zarr 3", "chunks": [100, 2], "shards": None} | expected
    run = dgmm("inspect", path)
    assert run.code == 0, run.err
    assert expected.items() <= run.record.items()
    assert (expected["checksum"] or "damage would go unnoticed") in run.err
    assert ("100 × 2" in run.err) == (kind != "npy")


def test_inspect_nothing(dgmm, tmp_path) -> None:
    assert dgmm("inspect", tmp_path / "none").code == 65


# ------------------------------------------------------------------------------------------ demo


def test_demo_cleans_up_after_itself(dgmm, tmp_path, monkeypatch) -> None:
    seen = {}

    def run_demo(**given: object) -> dict[str, object]:
        seen.update(given)
        (given["directory"] / "patches.zarr").write_text("a gigabyte")
        given["report"].write_text("<html>")
        return {"model": "demo", "bic": np.float64("nan")}

    module = ModuleType("dgmm.demo")
    module.run_demo = run_demo
    monkeypatch.setitem(sys.modules, "dgmm.demo", module)
    monkeypatch.chdir(tmp_path)
    run = dgmm("demo", "--seed", 3)
    assert run.code == 0
    assert run.record == {"model": "demo", "bic": None}
    assert [path.name for path in tmp_path.iterdir()] == ["demo-report.html"]
    assert (seen["memory_limit"], seen["seed"]) == ("256MiB", 3)
    assert dgmm("demo", "--directory", "kept").code == 0
    assert (tmp_path / "kept" / "patches.zarr").exists()
