"""CuPy's namespace without CuPy."""

from __future__ import annotations

import sys

import pytest

from dgmm import devices
from dgmm.cuda import modules, tiles
from tests.cuda.emulator import EmulatedCupy, emulated_module


@pytest.fixture
def emulated(monkeypatch):
    """CuPy's namespace, with kernels that run on this host."""
    monkeypatch.setattr(modules, "load_module", emulated_module)
    # Blocks that have nothing to do take as long here as the others.
    monkeypatch.setattr(tiles, "_TALLIES", 3)
    for remembered in (modules._function, tiles._device_pairs):
        remembered.cache_clear()
    yield EmulatedCupy()
    for remembered in (modules._function, tiles._device_pairs):
        remembered.cache_clear()


@pytest.fixture
def cupy(emulated, monkeypatch):
    """Installs a CuPy with devices that this host emulates, as many as are asked for."""

    def install(n_devices=1, **options):
        found = EmulatedCupy(n_devices, **options)
        monkeypatch.setitem(sys.modules, "cupy", found)
        devices.facts_of.cache_clear()
        return found

    yield install
    devices.facts_of.cache_clear()
