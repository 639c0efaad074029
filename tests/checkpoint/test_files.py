"""Checkpoint files: every change is found, older ones are fallen back to, other fits refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from dgmm import sealed
from dgmm.checkpoint import Checkpoints, FitState, Interval
from dgmm.checkpoint.places import Directory
from dgmm.checkpoint.plain import pack, unpack
from dgmm.checkpoint.state import decode, encode
from dgmm.durable import Disk
from dgmm.errors import (
    CheckpointError,
    CheckpointMismatchError,
    InvalidParameterError,
    SourceError,
)
from tests.checkpoint.fits import estimator, rows, same_bits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = rows(n_rows=120, n_features=2)
ARGUMENTS = {"n_components": 3, "max_iter": 4, "acceleration": "computing", "n_init": 2}


def fitted(x: Any = X, **arguments: Any) -> Any:
    return estimator(**ARGUMENTS | {"checkpoint_every": 1} | arguments).fit(x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoints")
    fitted(checkpoint=place)
    return place


@pytest.fixture(scope="module")
def content(folder: Path) -> bytes:
    return max(folder.iterdir()).read_bytes()


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def read(content: bytes) -> FitState:
    return decode("it", BytesIO(content), len(content))


# ------------------------------------------------------------------------------------- contents


def test_the_same_state_is_the_same_bytes(content: bytes) -> None:
    assert encode(read(content)) == content


def test_three_are_kept(folder: Path) -> None:
    # Of iterations 0 to 4.
    assert sorted(path.name for path in folder.iterdir()) == [
        f"checkpoint-{number:08d}.safetensors" for number in (3, 4, 5)
    ]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=5)
        | st.lists(st.floats(allow_nan=False), max_size=3).map(np.array)
        | st.lists(st.booleans(), min_size=1, max_size=3).map(np.array),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("ab/", max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_plain_values_come_back(value: Any) -> None:
    arrays, plain = pack({"value": value})
    back = unpack(arrays, json.loads(json.dumps(plain, allow_nan=False)))["value"]
    np.testing.assert_equal(back, value)


# -------------------------------------------------------------------------------------- damage


def test_60_of_60_flipped_bytes_are_found(content: bytes) -> None:
    rng = np.random.default_rng(60)
    places = rng.choice(len(content), 60, replace=False)
    found = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        with pytest.raises(CheckpointError):
            read(bytes(damaged))
        found += 1
    assert found == 60


def test_every_truncation_is_found(content: bytes) -> None:
    for length in [*range(200), *range(200, len(content), 97), len(content) - 1]:
        with pytest.raises(CheckpointError, match=f"truncated: it has {length} bytes"):
            read(content[:length])


@given(data=st.data())
def test_patches_are_found(content: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=12))
    damaged = content[:start] + patch + content[start + len(patch) :]
    if damaged != content:
        with pytest.raises(CheckpointError):
            read(damaged)


@given(noise=st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(CheckpointError):
        read(noise)


def forged(content: bytes, change: Any) -> bytes:
    """A file whose seal is whole over contents that were changed."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["dgmm"])
    arrays, facts = dict(load(content)), header["facts"]
    change(arrays, facts)
    header = {**header, "facts": facts}
    del header["sha256"]
    header["sha256"] = sealed._digest({name: arrays[name] for name in sorted(arrays)}, header)
    return save(arrays, metadata={"dgmm": sealed.canonical(header)})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(-9, 9)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@given(data=st.data())
def test_whole_files_with_other_contents_are_refused_or_states(
    content: bytes, data: st.DataObject
) -> None:
    def change(arrays: dict[str, Any], facts: dict[str, Any]) -> None:
        inner = facts["chains"][0]
        target = data.draw(st.sampled_from([facts, inner, inner["acceleration"], facts["effort"]]))
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON)

    try:
        state = read(forged(content, change))
    except CheckpointError:
        return
    assert state.chains


@pytest.mark.parametrize("emptied", [[["a", 0, "dropped"]], [[0, 1, "sunk"]], [[0]], 5, [None]])
def test_forged_chains(content: bytes, emptied: Any) -> None:
    def change(arrays: dict[str, Any], facts: dict[str, Any]) -> None:
        facts["chains"][0]["emptied"] = emptied

    with pytest.raises(CheckpointError, match="does not describe a fit"):
        read(forged(content, change))


def test_chains_from_before_components_were_mended(content: bytes) -> None:
    def change(arrays: dict[str, Any], facts: dict[str, Any]) -> None:
        for name in ("emptied", "pending"):
            del facts["chains"][0][name]

    (chain, *_) = read(forged(content, change)).chains
    assert (chain.emptied, chain.pending) == ((), ())


@pytest.mark.parametrize(
    "change",
    [
        {"chains": []},
        {"iteration": -1},
        {"iteration": True},
        {"entropy": "7"},
        {"moments": {}},
        {"extra": 1},
        {"chains": [{"mixture": {"$array": "nowhere"}}]},
        {"chains": [{"mixture": {"$float": "1e400"}}]},
    ],
    ids=str,
)
def test_forged_contents(content: bytes, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="does not describe a fit"):
        read(forged(content, lambda _, facts: facts.update(change)))


def test_a_name_that_climbs_out_of_the_directory_is_a_name(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="nothing refers to the arrays"):
        read(forged(content, lambda arrays, _: arrays.update({"../../climbs": np.zeros(2)})))


def test_a_huge_declared_shape_allocates_nothing(content: bytes) -> None:
    (length,) = struct.unpack("<Q", content[:8])
    layout = json.loads(content[8 : 8 + length])
    name = next(name for name in layout if name != "__metadata__")
    for entry in (
        {"dtype": "F64", "shape": [2**44], "data_offsets": [0, 2**47]},
        {"dtype": "F64", "shape": [2**62, 2**62], "data_offsets": [0, 8]},
    ):
        raw = json.dumps(layout | {name: entry}).encode()
        with pytest.raises(CheckpointError, match=r"truncated|damaged"):
            read(struct.pack("<Q", len(raw)) + raw + content[8 + length :])


def test_a_newer_version_is_refused(content: bytes) -> None:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["dgmm"])
    text = sealed.canonical(header | {"version": 2, "library": "9.9"})
    with pytest.raises(CheckpointError, match=r"version 2 \(written by dgmm 9\.9\).*newer dgmm"):
        read(save(load(content), metadata={"dgmm": text}))


def test_a_model_is_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    fitted().save(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="its format is 'dgmm-model'"):
        read((tmp_path / "model.safetensors").read_bytes())


# --------------------------------------------------------------------------------- falling back


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_one_falls_back_to_the_one_before(place: Path) -> None:
    flip(place / "checkpoint-00000005.safetensors")
    with pytest.warns(RuntimeWarning, match=r"an older one was taken.*00000005\S* "):
        gm = fitted(checkpoint=place, resume="must")
    same_bits(gm, fitted())
    assert any("resumed from iteration 3" in note for note in gm.record_.notes)
    assert any("00000005" in note for note in gm.record_.notes)


def test_damaged_ones_are_not_counted_among_those_kept(tmp_path: Path) -> None:
    fitted(checkpoint=tmp_path, checkpoint_every=1, max_iter=4)
    *_, second, newest = sorted(tmp_path.iterdir())
    for path in (second, newest):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.warns(RuntimeWarning, match="a newer checkpoint cannot be used"):
        fitted(checkpoint=tmp_path, checkpoint_every=1, max_iter=6)
    left = sorted(tmp_path.iterdir())
    assert len(left) == 3
    for path in left:
        with path.open("rb") as file:
            decode(str(path), file, path.stat().st_size)


def test_all_damaged_is_an_error(place: Path) -> None:
    for path in place.iterdir():
        flip(path)
    with pytest.raises(CheckpointError, match=r"none of the 3 checkpoints .* can be used"):
        fitted(checkpoint=place)
    gm = fitted(checkpoint=place, resume="never")
    same_bits(gm, fitted())
    same_bits(fitted(checkpoint=place, resume="must"), gm)


def test_other_things_in_the_directory_are_left_alone(place: Path) -> None:
    os.mkfifo(place / "checkpoint-00000009.safetensors")
    (place / "checkpoint-00000008.safetensors").symlink_to("/dev/zero")
    (place / "checkpoint-00000007.safetensors").mkdir()
    (place / "notes.txt").write_text("mine")
    same_bits(fitted(checkpoint=place, resume="must"), fitted())
    assert (place / "notes.txt").read_text() == "mine"


def test_resume_must_and_never(tmp_path: Path, place: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*none"):
        fitted(checkpoint=tmp_path / "none", resume="must")
    gm = fitted(checkpoint=place, resume="never")
    assert not any("resumed" in note for note in gm.record_.notes)
    assert gm.record_.passes == fitted().record_.passes


def test_a_new_fit_does_not_come_back_to_the_old_one(place: Path) -> None:
    fitted(checkpoint=place, resume="never", max_iter=1)
    gm = fitted(checkpoint=place)
    assert any("resumed from iteration 1" in note for note in gm.record_.notes)


# ------------------------------------------------------------------------------------ other fits


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_components": 4}, "n_components was 3 and is 4"),
        ({"covariance_type": "diag"}, "covariance_type was 'full' and is 'diag'"),
        ({"random_state": 4}, "random_state was 3 and is 4"),
        ({"tol": 1e-4}, "tol was 1e-12 and is 0.0001"),
        ({"reg_covar": 0.0}, "reg_covar was 1e-06 and is 0.0"),
        ({"covariance_floor": 1.0}, "reg_covar was .*; covariance_floor was 0.0 and is 1.0"),
        ({"n_init": 3}, "n_init was 2 and is 3"),
        ({"acceleration": None}, "acceleration was 'computing' and is None"),
        ({"empty_components": "drop"}, "empty_components was 'keep' and is 'drop'"),
        ({"init_params": "kmeans"}, "init_params was 'random' and is 'kmeans'"),
        ({"dtype": "float32"}, "dtype was None and is 'float32'"),
        ({"means_init": np.zeros((3, 2))}, "means_init was None and is 'float64"),
        ({"weight_concentration_prior": 2.0}, "weight_concentration_prior was None"),
        ({"fixed": {"means": [1]}}, r"fixed means was \[\] and is \[1\]"),
        ({"device": "cpu-compiled"}, "device was 'cpu' and is 'cpu-compiled'"),
        ({"max_iter": 3}, "4 iterations are done and max_iter is 3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_arguments_are_named(place: Path, arguments: dict, named: str) -> None:
    if arguments.get("device") == "cpu-compiled":
        pytest.importorskip("numba")
    with pytest.raises(CheckpointMismatchError, match=f"is of another fit: {named}"):
        fitted(checkpoint=place, **arguments)


def test_all_differences_are_named(place: Path) -> None:
    with pytest.raises(InvalidParameterError, match=r"tol was .*; n_init was .*; covariance_type"):
        fitted(checkpoint=place, n_init=1, tol=1e-4, covariance_type="diag")


def changed(row: int) -> np.ndarray:
    x = X.copy()
    x[row, 1] = np.nextafter(x[row, 1], np.inf)
    return x


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (X[:-1], "number of rows was 120 and is 119"),
        (X.astype(np.float32), "dtype was 'float64' and is 'float32'"),
        (changed(7), "the data: sampled rows was"),
        (X[::-1].copy(), "the data: sampled rows was"),
        (np.vstack([X[:50], X[50:] * 1.5]), "greatest values was"),
    ],
    ids=["fewer", "dtype", "one bit", "order", "values"],
)
def test_other_rows_are_named(place: Path, x: Any, named: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=named):
        fitted(x, checkpoint=place)


def test_a_row_that_is_not_in_the_sample_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.shared_fit.sample_size", lambda *_, **__: 40)
    fitted(checkpoint=tmp_path)
    for row in range(0, len(X), 5):
        x = X.copy()
        x[row, 0] += 1e-6
        with pytest.raises(CheckpointMismatchError, match="the data"):
            fitted(x, checkpoint=tmp_path)


def test_rows_exchanged_for_one_another_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgmm.shared_fit.sample_size", lambda *_, **__: 4)
    # Small integers: sums of them are exact in any order.
    x = np.random.default_rng(0).integers(0, 9, (len(X), 2)).astype(np.float64)
    labels = np.full(len(X), -1)
    labels[::7] = np.arange(len(labels[::7])) % 3

    def fit(x: np.ndarray, labels: np.ndarray) -> None:
        estimator(**ARGUMENTS, checkpoint=tmp_path).fit(x, labels=labels)

    fit(x, labels)
    fit(x, labels)
    for at in range(0, len(X) - 1, 3):
        swapped = x.copy()
        swapped[[at, at + 1]] = swapped[[at + 1, at]]
        if np.array_equal(swapped, x):
            continue
        with pytest.raises(CheckpointMismatchError, match=r"the data: .*all rows was"):
            fit(swapped, labels)
    relabelled = labels.copy()
    relabelled[[0, 7]] = relabelled[[7, 0]]
    with pytest.raises(CheckpointMismatchError, match=r"the data: .*all rows was"):
        fit(x, relabelled)


def test_other_weights_are_named(tmp_path: Path) -> None:
    weight = np.linspace(1, 2, len(X))
    gm = estimator(**ARGUMENTS, checkpoint=tmp_path)
    gm.fit(X, sample_weight=weight)
    with pytest.raises(CheckpointMismatchError, match=r"sampled rows|weight"):
        gm.fit(X, sample_weight=weight[::-1])
    with pytest.raises(CheckpointMismatchError, match="weighted was True and is False"):
        gm.fit(X)


def test_another_machine_goes_on_with_a_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = max(place.iterdir())

    def elsewhere(arrays: dict[str, Any], facts: dict[str, Any]) -> None:
        facts["surroundings"]["BLAS"] = "another"
        name = facts["moments"]["scatter"]["$array"]
        arrays[name] = arrays[name] * (1 + 1e-15)

    path.write_bytes(forged(path.read_bytes(), elsewhere))
    with pytest.warns(RuntimeWarning, match=r"last bits .*BLAS was 'another' and is"):
        gm = fitted(checkpoint=place, max_iter=6)
    np.testing.assert_allclose(gm.means_, fitted(max_iter=6).means_, rtol=1e-9)


HALF = """
import sys, numpy as np, warnings
from tests.checkpoint.test_files import ARGUMENTS, X, estimator

warnings.simplefilter("ignore")
estimator(**ARGUMENTS | {"max_iter": int(sys.argv[2])}, checkpoint=sys.argv[1]).fit(X)
"""


def test_another_choice_of_loops_is_said(tmp_path: Path) -> None:
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    if not found:
        pytest.skip("this processor has nothing beyond NumPy's baseline")
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    subprocess.run(
        [sys.executable, "-c", HALF, str(tmp_path), "3"],
        check=True, timeout=120, env=environment,
    )  # fmt: skip
    with pytest.warns(RuntimeWarning, match=r"last bits .*processors was .* and is"):
        fitted(checkpoint=tmp_path)


# ------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10", "0s", "s", "-5s", "1d", None, "1e3s"])
def test_intervals_that_are_none(value: Any) -> None:
    with pytest.raises(InvalidParameterError, match="checkpoint_every="):
        Interval.of(value)


def test_intervals() -> None:
    assert Interval.of(3) == Interval(iterations=3)
    assert Interval.of("1.5min") == Interval(seconds=90.0)
    assert Interval.of("2 h") == Interval(seconds=7200.0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"resume": "maybe"}, "resume='maybe'; it must be one of 'auto', 'never', 'must'"),
        ({"resume": "must"}, "needs checkpoint="),
        ({"checkpoint": 5}, "checkpoint is a int; it must be a path, a URL"),
        ({"checkpoint": {"key": "a secret"}}, "checkpoint is a dict; it must be a path"),
        ({"checkpoint": "a" * 300}, "cannot list .*: .*too long"),
        ({"checkpoint": "a\0b"}, "cannot .*null"),
        (
            {"checkpoint": Checkpoints("memory://q", storage_options="x")},
            "storage_options is a str",
        ),
        ({"checkpoint": Checkpoints("memory://q", storage_options=3)}, "storage_options is a int"),
        ({"checkpoint": Checkpoints("x", keep=0)}, "keep=0"),
        ({"checkpoint": "memory://"}, "names no prefix"),
        ({"checkpoint": "nonsense://x/y"}, "nonsense"),
    ],
)
def test_bad_arguments(arguments: dict, match: str) -> None:
    with pytest.raises((InvalidParameterError, SourceError), match=match):
        fitted(**arguments)


def test_leftovers_that_cannot_be_swept_are_an_error_of_ours(tmp_path: Path) -> None:
    class Sticky(Disk):
        def remove(self, path: Path) -> None:
            raise PermissionError(f"not yours: {path}")

    (tmp_path / f".checkpoint-00000003.safetensors.{'0' * 16}.tmp").write_bytes(b"half")
    with pytest.raises(SourceError, match="leftover"):
        Directory(tmp_path, Sticky()).sweep()


def test_contents_nested_without_end_are_no_state(content: bytes) -> None:
    nested: Any = 1
    for _ in range(600):
        nested = [nested]
    with pytest.raises(CheckpointError):
        read(forged(content, lambda _, facts: facts.update({"fit": nested})))
