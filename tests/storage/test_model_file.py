"""The model file: what goes in comes out, always as the same bytes, and every change is noticed."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import save_file

from dgmm import sealed
from dgmm.errors import (
    InvalidParameterError,
    ModelFileError,
    SourceError,
    StoreUnavailableError,
)
from dgmm.storage import looks_like_model, read_model, write_model

TENSORS = {
    "weights": np.array([0.25, 0.75]),
    "means": np.arange(4.0).reshape(2, 2) / 3,
    "scale": np.array(2.5, dtype=np.float32),
}
FACTS = {"covariance_type": "tied_spherical", "lower_bound": -1.5, "note": 'é\n"q"', "n": 100}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_model(path, TENSORS, FACTS)
    return path


def header_of(path: Path) -> dict:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["dgmm"])


def write_header(path: Path, **changes: object) -> None:
    """A file whose dgmm header differs in some keys, the arrays being whole."""
    header = sealed.canonical(header_of(path) | changes)
    save_file(TENSORS, path, metadata={"dgmm": header})


# ------------------------------------------------------------------------------- what is written


@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        arrays_of.arrays(
            st.sampled_from([np.dtype("<f4"), np.dtype("<f8"), np.dtype(">f8")]),
            arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    ),
    facts=st.dictionaries(
        st.text(max_size=6),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=6),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=4,
    ),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, tensors: dict, facts: dict) -> None:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    write_model(path, tensors, facts)
    first = path.read_bytes()
    back, back_facts = read_model(path)
    assert back_facts == facts
    assert list(back) == sorted(tensors)
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype.newbyteorder("=")
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)
    write_model(path, dict(reversed(tensors.items())), dict(reversed(facts.items())))
    assert path.read_bytes() == first


def test_arrays_can_be_written_to_after_reading(path: Path) -> None:
    tensors, _ = read_model(path)
    tensors["weights"][0] = 1.0
    assert read_model(path)[0]["weights"][0] == 0.25


def test_fortran_order_and_views_are_stored_as_they_look(tmp_path: Path) -> None:
    whole = np.arange(24.0).reshape(4, 6)
    tensors = {"f": np.asfortranarray(whole), "v": whole[::2, 1::3], "t": whole.T}
    write_model(tmp_path / "m", tensors, {})
    back, _ = read_model(tmp_path / "m")
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array)


def test_other_tools_can_read_the_arrays(path: Path) -> None:
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(path)["means"], TENSORS["means"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), {1, 2}, b"x", np.float32(1)])
def test_facts_have_to_be_plain_json(tmp_path: Path, bad: object) -> None:
    with pytest.raises(InvalidParameterError, match="plain JSON"):
        write_model(tmp_path / "m", TENSORS, {"x": bad})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["i8", "f2", "c16", "U3", "O", "?"])
def test_only_floats_are_stored(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"array 'a' .* dtype"):
        write_model(tmp_path / "m", {"a": np.zeros(2, dtype)}, {})


def test_reserved_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="__metadata__"):
        write_model(tmp_path / "m", {"__metadata__": np.zeros(2)}, {})


def test_huge_facts_are_refused_when_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(InvalidParameterError, match="may take 1000"):
        write_model(tmp_path / "m", {}, {"x": "a" * 1000})


# ---------------------------------------------------------------------------------- all or nothing


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        StoreUnavailableError, match=r"cannot write .*model\.safetensors: No space left"
    ):
        write_model(path, {}, {})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(path)
    write_model(link, {}, {"new": True})
    assert link.is_symlink()
    assert read_model(path)[1] == {"new": True}


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file") as caught:
        write_model(tmp_path / "no" / "m", {}, {})
    assert not isinstance(caught.value, StoreUnavailableError)


# ------------------------------------------------------------------------------- what is refused


def test_every_changed_byte_is_found(path: Path) -> None:
    """One bit, the bit between upper and lower case, and all bits of every byte in the file."""
    raw = path.read_bytes()
    assert len(raw) > 400
    for position in range(len(raw)):
        for mask in (1 << position % 8, 0x20, 0xFF):
            damaged = bytearray(raw)
            damaged[position] ^= mask
            path.write_bytes(damaged)
            with pytest.raises(ModelFileError):
                read_model(path)


@given(data=st.data())
def test_any_changed_bytes_are_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    write_model(path, TENSORS, FACTS)
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=12))
    damaged = raw[:start] + patch + raw[start + len(patch) :]
    if damaged != raw:
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            read_model(path)


@given(content=st.binary(max_size=200))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        read_model(path)


def test_every_truncation_is_named(path: Path) -> None:
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ModelFileError, match=f"truncated: it has {length} bytes"):
            read_model(path)


def test_trailing_bytes_are_damage(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelFileError, match="is damaged: it has"):
        read_model(path)


def test_altered_array_names_both_digests(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=f"altered .*{header_of(path)['sha256']}"):
        read_model(path)


def test_altered_facts_are_found(path: Path) -> None:
    write_header(path, facts=FACTS | {"n": 101})
    with pytest.raises(ModelFileError, match="altered"):
        read_model(path)


def test_newer_version_says_which_and_what_to_do(path: Path) -> None:
    write_header(path, version=7, library="9.9", extra=1)
    with pytest.raises(ModelFileError, match=r"version 7 \(written by dgmm 9\.9\).*newer dgmm"):
        read_model(path)


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 1.0])
def test_impossible_version(path: Path, version: object) -> None:
    write_header(path, version=version)
    with pytest.raises(ModelFileError, match="format version is"):
        read_model(path)


def test_foreign_safetensors(path: Path) -> None:
    for metadata in (None, {"format": "pt"}, {"dgmm": "[]"}, {"dgmm": '{"format":"other"}'}):
        save_file(TENSORS, path, metadata=metadata)
        with pytest.raises(ModelFileError, match="is not a dgmm model"):
            read_model(path)


def test_other_dtypes_are_not_ours(path: Path) -> None:
    header = sealed.canonical(header_of(path))
    save_file({"a": np.zeros(3, np.int64)}, path, metadata={"dgmm": header})
    with pytest.raises(ModelFileError, match="dtype 'I64'"):
        read_model(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 10_000,
        b"[]",
        b"{}",
        b'{"a":1}',
        b'{"a":{"dtype":"F64","shape":[9000000000000],"data_offsets":[0,72000000000000]}}',
        b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[-8,0]}}',
        b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[0.0,8.0]}}',
        b'{"a":{"dtype":"F64","shape":[1],"data_offsets":"x"}}',
        b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[]}}',
        b'{"a":{"dtype":["F64"],"shape":[1],"data_offsets":[0,0]}}',
        b'{"__metadata__":[1]}',
        b'{"__metadata__":{"dgmm":1}}',
        b'{"__metadata__":{"dgmm":"NaN"}}',
    ],
    ids=range(15),
)
def test_malicious_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelFileError):
        read_model(path)


def signed(layout: dict, facts: dict) -> bytes:
    """A file with our header over a layout that safetensors itself would not have written."""
    header = {"facts": facts, "format": "dgmm-model", "library": "1", "version": 1, "sha256": ""}
    layout = {"__metadata__": {"dgmm": sealed.canonical(header)}} | layout
    raw = json.dumps(layout).encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F64", "shape": [2**62, 2**62], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [2**80], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]},
        {"dtype": ["F64"], "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F64", "data_offsets": [0, 8]},
    ],
    ids=range(7),
)
def test_arrays_that_cannot_be(tmp_path: Path, entry: dict) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(signed({"a": entry}, {}) + bytes(8))
    with pytest.raises(ModelFileError):
        read_model(path)


def test_claimed_header_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30) + b"{")
        file.truncate(2**31)
    with pytest.raises(ModelFileError, match="claims 1073741824 bytes"):
        read_model(path)


# ---------------------------------------------------------------------------- what cannot be opened


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file") as caught:
        read_model(tmp_path / "none.safetensors")
    assert isinstance(caught.value, OSError)


def test_a_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a regular file"):
        read_model(tmp_path)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="not a regular file"):
        read_model(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "the path of a model is None; it must be a str or a path"),
        (3, "the path of a model is 3"),
        ("s3://key:secret@bucket/m", "starts with s3://; it must be a file of this machine"),
    ],
)
def test_what_is_no_local_path(path: object, message: str) -> None:
    for use in (lambda: read_model(path), lambda: write_model(path, {}, {})):  # type: ignore[arg-type]
        with pytest.raises(InvalidParameterError, match=message) as caught:
            use()
        assert "secret" not in str(caught.value)


def test_looks_like_model(path: Path, tmp_path: Path) -> None:
    array = tmp_path / "rows.npy"
    np.save(array, np.zeros((2, 2)))
    renamed = path.rename(tmp_path / "model.bin")
    assert looks_like_model(renamed)
    assert not looks_like_model(array)
    assert not looks_like_model(tmp_path)
    assert not looks_like_model(tmp_path / "none.safetensors")
