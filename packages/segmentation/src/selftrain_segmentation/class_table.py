"""Reading a table of classes and their colours."""

from __future__ import annotations

import csv
import re
from pathlib import Path

Row = tuple[str, tuple[int, int, int]]

_SPACED = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\S.*?)\s*")


def read_class_table(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return red, green and blue by class name from a file with lines ``name,r,g,b`` or ``r g b name``.

    Empty lines, lines that begin with ``#`` and a first line of column names are passed over.

    Raises:
        ValueError: The file cannot be read, a line has another form, or a name stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the class table {path} cannot be read: {error}") from error
    table: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        row = _row(line)
        if row is None:
            if not table and not re.search(r"\d", line):
                continue  # column names
            raise ValueError(
                f"{path}, line {number}: '{line}' is neither 'name,r,g,b' nor 'r g b name', r, g, b 0 to 255"
            )
        if row[0] in table:
            raise ValueError(f"{path}, line {number}: the class '{row[0]}' stands twice")
        table[row[0]] = row[1]
    if not table:
        raise ValueError(f"the class table {path} holds no class; a line has the form 'name,r,g,b' or 'r g b name'")
    return table


def _row(line: str) -> Row | None:
    spaced = _SPACED.fullmatch(line)
    if spaced:
        name, cells = spaced[4], [spaced[1], spaced[2], spaced[3]]
    else:
        name, *cells = (cell.strip() for cell in next(csv.reader([line])))
    if len(cells) != 3 or not name or not all(cell.isascii() and cell.isdigit() for cell in cells):
        return None
    red, green, blue = map(int, cells)
    return (name, (red, green, blue)) if max(red, green, blue) <= 255 else None
