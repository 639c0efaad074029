"""The benchmark of GPUs runs as far as an emulated device goes, and one failure stops no other."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import parts
from benchmarks.gpu.measuring import mixture_of, operations
from tests.cuda.emulator import needs_compiler

pytestmark = needs_compiler


@pytest.fixture
def there(cupy):
    found = cupy()
    found.random = types.SimpleNamespace(
        seed=lambda _seed: None,
        standard_normal=lambda shape, dtype: found.asarray(
            np.random.default_rng(0).standard_normal(shape).astype(dtype)
        ),
    )
    return found


@pytest.mark.parametrize("part", ["billion", "streamed"])
def test_a_part_gives_rates(part, there):
    rows = getattr(parts, part)(there, 1e-9)
    assert all(row["rows"] == 100 and row["rows/s"] > 0 for row in rows)


def test_one_failure_stops_no_other(there, tmp_path, monkeypatch):
    def fails(_xp, _scale):
        raise RuntimeError("as asked")

    monkeypatch.setitem(program.PARTS, "peers", fails)
    command = ["--out", str(tmp_path), "--parts", "peers,roofline", "--scale", "1e-9"]
    done = CliRunner().invoke(program.main, command, catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["peers"]["error"] == "RuntimeError: as asked"
    assert len(found["roofline"]["rows"]) == 4
    assert "| product of 64 x 64, float64 |" in (tmp_path / "gpu.md").read_text()


def test_out_of_time_is_said(there, tmp_path):
    command = ["--out", str(tmp_path), "--parts", "fused", "--seconds", "0"]
    CliRunner().invoke(program.main, command, catch_exceptions=False)
    assert "out of time" in (tmp_path / "gpu.md").read_text()


def test_without_a_gpu_it_says_what_to_install(cupy):
    cupy(0)
    done = CliRunner().invoke(program.main, [])
    assert done.exit_code == 1
    assert "cuda12" in done.output


def test_operations_of_a_row():
    assert operations(mixture_of("full", 16, 16)) == 9792
