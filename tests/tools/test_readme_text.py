"""What the README says is so: its examples are the files, its tables are the code's, its links lead somewhere."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import click
import dev
import pytest
from demo_processes import end_writer

import raftlog_mp as rl
from raftlog_mp.cli.commands import cli

ROOT = Path(dev.__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (examples/\w+\.py) -->\n```python\n(.*?)```", README, re.DOTALL)


def section(title: str) -> str:
    """The text under a heading."""
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def first_cells(title: str) -> list[str]:
    """The first column of a section's table, without its head."""
    rows = [line.split("|")[1].strip() for line in section(title).splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_first_example_is_the_whole_file_and_short() -> None:
    name, text = BLOCKS[0]
    assert name == "examples/hello.py" and text == (ROOT / name).read_text()
    assert len(text.splitlines()) <= 12


@pytest.mark.parametrize(("name", "text"), BLOCKS)
def test_examples_are_the_files(name: str, text: str) -> None:
    assert text in (ROOT / name).read_text()


def test_hello_runs_as_it_is(tmp_path: Path) -> None:
    try:
        command = [sys.executable, str(ROOT / "examples" / "hello.py")]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100)
    finally:
        end_writer(str(tmp_path / "hello-log"))
    assert ran.stdout.splitlines() == [
        "1 b'hello'", "1 b'hello'", "2 b'a'", "3 b'b'", "4 b'c'", "on disk up to entry 4",
    ]  # fmt: skip


def test_the_settings_table_is_the_config() -> None:
    rows = [line.split("|")[1:3] for line in section("Settings").splitlines() if line.startswith("| `")]
    said = {name.strip().strip("`"): default.strip().strip("`") for name, default in rows}
    config = rl.LogConfig()
    assert list(said) == [field.name for field in dataclasses.fields(config)]
    for name, default in said.items():
        value = getattr(config, name)
        if default.endswith(" MiB"):
            assert value == int(default.removesuffix(" MiB")) << 20
        else:
            known = {kind.__name__: kind for kind in (rl.Immediate, rl.PressureConfig)}
            assert value == eval(default, known), name  # noqa: S307  our own README


def test_the_table_of_errors_is_complete() -> None:
    said = {name for cell in first_cells("Errors, and what to do") for name in re.findall(r"`(\w+)`", cell)}
    tree = {name for name, kind in vars(rl).items() if isinstance(kind, type) and issubclass(kind, rl.RaftLogError)}
    assert said == tree - {"RaftLogError"}


def test_commands_and_their_options_exist() -> None:
    cells = first_cells("Command line")
    assert {cell.strip("`").split()[1] for cell in cells} == set(cli.commands)
    for cell in cells:
        words = cell.strip("`").split()
        known = [name for option in cli.commands[words[1]].params if isinstance(option, click.Option)
                 for name in option.opts]  # fmt: skip
        assert [word for word in words if word.startswith("-") and word not in known] == []


def test_the_handles_attributes_exist() -> None:
    for name in re.findall(r"\blog\.(\w+)", section("The handle")):
        assert hasattr(rl.Log, name), name


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_two_commands_are_the_makefiles() -> None:
    verbs = re.findall(r"^make (\w+)", section("Two commands"), re.MULTILINE)
    assert verbs == ["demo", "test"]
    for job in re.findall(r"python3 tools/dev\.py (\w+)", README):
        assert job in dev.JOBS
