"""The tables of a markdown document, by the heading above them."""

from __future__ import annotations

import struct
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

Table = list[dict[str, str]]


def tables_of(name: str) -> dict[str, Table]:
    """Heading -> rows of the first table below it; backticks are dropped from the cells."""
    found: dict[str, Table] = {}
    heading, columns, table = "", [], []
    for line in (DOCS / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading, columns = line.lstrip("# ").strip(), []
        elif not line.startswith("|"):
            columns = []
        else:
            cells = [cell.strip().replace("`", "") for cell in line.strip()[1:-1].split("|")]
            if columns and not set("".join(cells)) <= set("-: "):
                table.append(dict(zip(columns, cells, strict=True)))
            elif not columns:
                columns, table = cells, []
                found.setdefault(heading, table)
    return found


def block_below(name: str, heading: str) -> str:
    """The first fenced block below a heading."""
    text = (DOCS / name).read_text(encoding="utf-8").split(f"# {heading}\n", 1)[1]
    return text.split("```", 2)[1].split("\n", 1)[1]


def fields_of(*structs: tuple[struct.Struct, tuple[str, ...]], start: int = 0) -> list[tuple[int, int, str]]:
    """``(offset, size, name)`` of each field of packed structures that stand one behind the other."""
    found, offset = [], start
    for packed, names in structs:
        codes = split_codes(packed.format)
        assert len(codes) == len(names), (packed.format, names)
        for code, field in zip(codes, names, strict=True):
            size = struct.calcsize("<" + code)
            found.append((offset, size, field))
            offset += size
    return found


def split_codes(text: str) -> list[str]:
    """``"<4sIQ"`` -> ``["4s", "I", "Q"]``."""
    codes, number = [], ""
    for character in text.lstrip("<>=!@"):
        if character.isdigit():
            number += character
        elif character == "s":
            codes.append(number + "s")
            number = ""
        else:
            codes += [character] * int(number or 1)
            number = ""
    return codes


def rows_of(table: Table) -> list[tuple[int, int, str]]:
    """``(offset, size, name)`` as a document states it."""
    return [(int(row["offset"]), int(row["size"]), row["field"]) for row in table]
