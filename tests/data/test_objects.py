"""Arrays of objects: numbers are taken exactly, anything else is refused by place and kind."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import dgmm
from dgmm.data.objects import real_numbers


def test_numbers_of_all_kinds_are_taken_as_they_are() -> None:
    values = [[1, 0.1, np.float32(0.1)], [True, np.int8(-3), Fraction(1, 4)]]
    found = real_numbers(np.array(values, dtype=object))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.array(values, dtype=np.float64))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("1.5", dgmm.InvalidDtypeError, "a str at row 1, feature 0"),
        (None, dgmm.InvalidDtypeError, "a NoneType at row 1, feature 0"),
        ({"foo": "bar"}, dgmm.InvalidDtypeError, "argument must be .* string.* number"),
        (2**53 + 1, dgmm.InvalidDtypeError, "9007199254740993 at row 1, feature 0"),
        (Fraction(1, 3), dgmm.InvalidDtypeError, "exactly"),
        (10**400, dgmm.InvalidDtypeError, "float64"),
        (1j, dgmm.ComplexDataError, "Complex data not supported"),
        (np.complex64(1j), dgmm.ComplexDataError, "row 1, feature 0"),
    ],
)
def test_what_is_no_number_is_named(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dgmm.open_dataset(np.array([[0.5, 1], [value, 2]], dtype=object))


def test_a_missing_number_is_found_where_rows_are_read() -> None:
    x = np.array([[0.5], [np.nan], [2.0]], dtype=object)
    with pytest.raises(dgmm.InvalidDataError, match="row 1, feature 0 is nan"):
        dgmm.GaussianMixture().fit(x)


def test_complex_data_is_a_type_error_and_a_value_error() -> None:
    with pytest.raises(dgmm.ComplexDataError) as caught:
        dgmm.open_dataset(np.ones((3, 1), dtype=complex))
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, dgmm.DgmmError)
