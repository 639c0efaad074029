"""Tables: as Markdown, and in their place on a page of documentation."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """What a suite found.

    Parameters
    ----------
    name : str
        Of the place on the page that the table fills.
    title : str
    rows : list of dict
        All with the keys of the first, which are the columns.
    note : str
        What belongs under the table: conditions, what was left out and why.
    is_shown : bool
        Whether it is for people; others go into the JSON alone.
    files : tuple of Path
        Pictures that belong to it.
    """

    name: str
    title: str
    rows: list[Row]
    note: str = ""
    is_shown: bool = True
    files: tuple[Path, ...] = ()

    def markdown(self) -> str:
        """The table, its note and its pictures, without the title."""
        pictures = [f"![{self.title}]({path.name})" for path in self.files]
        return "\n\n".join(part for part in (markdown(self.rows), self.note, *pictures) if part)


def markdown(rows: list[Row]) -> str:
    """A table with the keys of the first row as its columns."""
    if not rows:
        return "(nothing measured)"
    columns = list(rows[0])
    lines = [_line(columns), _line(["---"] * len(columns))]
    lines += [_line([_cell(row.get(column)) for column in columns]) for row in rows]
    return "\n".join(lines)


def insert(page: str, tables: list[Table]) -> tuple[str, list[str]]:
    """The page with each table between its marks, and the names of those without a place.

    A place begins with ``<!-- benchmark: NAME -->`` and ends with ``<!-- end of benchmark -->``.
    """
    homeless = []
    for table in tables:
        place = re.compile(
            rf"(<!-- benchmark: {re.escape(table.name)} -->\n).*?(<!-- end of benchmark -->)",
            re.DOTALL,
        )
        content = f"\n{table.markdown()}\n\n"
        page, count = place.subn(lambda m, c=content: m[1] + c + m[2], page)
        if not count:
            homeless.append(table.name)
    return page, homeless


def insert_into(path: Path, tables: list[Table]) -> list[str]:
    """Fill the places of a file, put pictures beside it, and say which tables have no place."""
    page, homeless = insert(path.read_text(encoding="utf-8"), tables)
    path.write_text(page, encoding="utf-8")
    for table in tables:
        for picture in table.files if table.name not in homeless else ():
            shutil.copyfile(picture, path.parent / picture.name)
    return homeless


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return str(value)
