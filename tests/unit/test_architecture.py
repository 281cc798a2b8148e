"""docs/architecture.md names every module of the package, and no module that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_layers_names_every_module() -> None:
    """The rows of the house's table, against the files."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layers = "words|decisions|doors|structures|acts|tools|roles|handles"
    rows = re.findall(rf"^\| (?:{layers}) \|([^|]*)\|", text, re.MULTILINE)
    assert len(rows) == 8
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`([a-z_/]+)`", row)}
    built = {path.stem for path in (ROOT / "raftlog_mp").glob("*.py")} - {"__init__", "__main__"} | {"cli", "testing"}
    assert named == built
