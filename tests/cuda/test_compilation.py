"""The CUDA sources compile for the devices that they are for, without one."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dgmm.covariance import family_names, family_of
from dgmm.cuda.fused import _PLANS, FusedShape
from dgmm.cuda.modules import source_of
from dgmm.features import Layout

TILE = {"VALUE": "float", "REAL": "double", "DIFFERENCE": "double"}
NARROW = {"VALUE": "float", "REAL": "float", "DIFFERENCE": "float"}
WIDE = {"M_TILES": 4, "N_TILES": 4, "WARPS": 8}
LARGEST = FusedShape(16, 16, Layout(16).full)
FUSED = LARGEST.definitions(_PLANS[0]) | {"VALUE": "float"}


def _nvrtc():
    """NVRTC as a library; None where no package brings it."""
    try:
        found = importlib.util.find_spec("nvidia.cuda_nvrtc") or importlib.util.find_spec(
            "nvidia.cu13"
        )
    except ModuleNotFoundError:
        return None
    places = found.submodule_search_locations if found else ()
    files = [file for place in places for file in sorted(Path(place).rglob("libnvrtc.so*"))]
    return ctypes.CDLL(str(files[0])) if files else None


def _compile(library, source, definitions, architecture):
    """The PTX, or the compiler's complaints as an error."""
    program = ctypes.c_void_p()
    text = source_of(source).encode()
    options = [f"-arch={architecture}", "--std=c++14"]
    options += [f"-D{name}={value}" for name, value in definitions.items()]
    array = (ctypes.c_char_p * len(options))(*(one.encode() for one in options))
    created = library.nvrtcCreateProgram(ctypes.byref(program), text, b"dgmm.cu", 0, None, None)
    assert created == 0
    status = library.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, ptx)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx.value.decode()


@pytest.fixture(scope="module")
def nvrtc():
    library = _nvrtc()
    if library is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12); no GPU is needed")
    return library


@pytest.mark.parametrize("definitions", [TILE, NARROW], ids=["float64", "float32"])
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_tile_kernels(architecture, definitions, nvrtc):
    ptx = _compile(nvrtc, "tile", definitions, architecture)
    entries = set(re.findall(r"\.entry (\w+)", ptx))
    assert entries == {
        "centre", "expectation", "fill_features", "load_features", "merge_tallies", "softmax",
        "tally_rows",
    }  # fmt: skip


@pytest.mark.parametrize("name", family_names())
def test_the_fused_kernel_of_every_family(name, nvrtc):
    shape = FusedShape(6, 3, family_of(name).shape.block(Layout(6)))
    definitions = shape.definitions(_PLANS[0]) | {"VALUE": "double"}
    ptx = _compile(nvrtc, "fused", definitions, "compute_90")
    assert "mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64" in ptx


@pytest.mark.parametrize(
    ("architecture", "instruction"),
    [("compute_75", "shfl.sync"), ("compute_80", "m8n8k4"), ("compute_90", "m16n8k16")],
)
def test_products_are_the_matrix_units_where_there_is_one(architecture, instruction, nvrtc):
    for source, definitions in (("fused", FUSED), ("wide", WIDE)):
        assert instruction in _compile(nvrtc, source, definitions, architecture)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_sums_stay_in_registers(architecture, tmp_path):
    for source, definitions in (("fused", FUSED), ("wide", WIDE)):
        said = _assemble(source, definitions, architecture, tmp_path)
        assert set(re.findall(r"(\d+) bytes spill stores", said)) == {"0"}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_tile_kernels_are_assembled(tmp_path):
    said = _assemble("tile", TILE, "sm_90", tmp_path)
    assert len(re.findall("Compiling entry function", said)) == 7


def _assemble(source, definitions, architecture, folder):
    (folder / "source.cu").write_text(source_of(source))
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    command = ["nvcc", f"-arch={architecture}", "-Xptxas", "-v", "-cubin", *options]
    files = ["-o", folder / "made.cubin", folder / "source.cu"]
    return subprocess.run([*command, *files], check=True, capture_output=True, text=True).stderr
