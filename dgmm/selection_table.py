"""What a selection says of its candidates, as a table: in text, in a notebook, for pandas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any, overload

from dgmm.errors import MissingDependencyError

__all__ = ["SelectionRow", "SelectionTable"]


@dataclass(frozen=True)
class SelectionRow:
    """A candidate and what the criteria say of it.

    Parameters
    ----------
    covariance_type : str
    n_components : int
        As asked for, also where some were dropped (``empty_components="drop"``).
    n_parameters : int
        Free parameters of the result: what was fixed or dropped does not count.
    log_likelihood : float
        Per row that was fitted to, in nats; rows count by their weights, here and below.
    bic, aic, icl : float
        On the rows that were fitted to; lower is better.
    heldout : float
        Log-likelihood per row held out, in nats; higher is better. NaN if none were.
    converged : bool
    n_iter : int
    reason : str
        Why there are no numbers (NaN): all restarts collapsed.
    notes : str
        What became of components that were left without rows.
    """

    covariance_type: str
    n_components: int
    n_parameters: int
    log_likelihood: float
    bic: float
    aic: float
    icl: float
    heldout: float
    converged: bool
    n_iter: int
    reason: str = ""
    notes: str = ""


@dataclass(frozen=True)
class SelectionTable(Sequence[SelectionRow]):
    """All candidates, by family and number of components."""

    rows: tuple[SelectionRow, ...]

    @overload
    def __getitem__(self, index: int) -> SelectionRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SelectionRow]: ...
    def __getitem__(self, index: int | slice) -> SelectionRow | Sequence[SelectionRow]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SelectionRow]:
        return iter(self.rows)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dictionary for each candidate."""
        return [asdict(row) for row in self.rows]

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each candidate.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError(
                "to_pandas() needs pandas, which is not installed: pip install pandas"
            ) from error
        return pd.DataFrame(self.to_dicts())

    def __str__(self) -> str:
        names, cells = self._cells()
        lines = [names, *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
            for line in lines
        )
        return "\n".join(line.rstrip() for line in padded)

    def _repr_html_(self) -> str:
        names, cells = self._cells()
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in line) + "</tr>"
            for line in cells
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Names of the columns, and what stands in them for each candidate."""
        names = [field.name for field in fields(SelectionRow)]
        return names, [[_cell(getattr(row, name)) for name in names] for row in self.rows]


def _cell(value: Any) -> str:
    """Criteria to a hundredth at least: differences of 2 or 10 are what matters of them."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 1e4 else f"{value:.6g}"
