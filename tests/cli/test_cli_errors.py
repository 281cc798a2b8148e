"""Bad input: one clear line, the right exit code, and nothing loaded that is not needed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import raftlog_mp as rl
from raftlog_mp import errors
from raftlog_mp.cli import main, outcome
from raftlog_mp.cli.commands import cli

VERBS = [["serve"], ["stop"], ["append"], ["cat"], ["tail"], ["tail", "-f"], ["stat"], ["stat", "--json"]]
READING = [verb for verb in VERBS if verb[0] not in ("serve", "append")]


def one_line(capsys, *words: str) -> None:
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("raftlog-mp: ") and err.count("\n") == 1 and "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_file_as_directory(verb, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("content")
    assert main([verb[0], str(path), *verb[1:], *(["x"] if verb[0] == "append" else [])]) == 3
    one_line(capsys, str(path), "is a file")
    assert path.read_text() == "content"


@pytest.mark.parametrize("verb", READING, ids=" ".join)
def test_a_missing_log(verb, tmp_path, capsys):
    assert main([verb[0], str(tmp_path / "nope"), *verb[1:]]) == 3
    one_line(capsys, "there is no log at")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_directory_of_something_else(verb, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main([verb[0], str(tmp_path), *verb[1:], *(["x"] if verb[0] == "append" else [])]) == 3
    one_line(capsys, "holds no log")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["--bogus"], ["cat"], ["cat", "--bogus", "x"], ["tail", "x", "-n", "-1"], ["cat", "x", "--from", "0"],
     ["append", "x", "--term", "0"], ["append", "x", "--batch", "0"], ["stat", "x", "--interval", "0"],
     ["bench", "--dir", "no/such/folder"], ["bench", "--rounds", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_usage(arguments, capsys):
    assert main(arguments) == 2
    one_line(capsys, "--help")


def test_without_a_command_it_shows_help(capsys):
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("name", [None, *cli.commands])
def test_help(name, capsys):
    assert main([*([name] if name else []), "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: raftlog-mp")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"raftlog-mp {rl.__version__}\n"


def test_every_error_has_its_exit_code():
    codes = {
        cls.__name__: outcome.code_of(cls("x"))
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.RaftLogError) and not cls.__name__.startswith("_")
    }
    usage = {"ConfigError", "EntryTooLarge", "StaleTerm", "IndexGap", "CommittedEntry", "Compacted"}
    expected = {name: 2 if name in usage else 1 if name == "Truncated" else 3 for name in codes}
    assert codes == expected and len(codes) > 15


def test_an_error_is_one_line(capsys):
    assert outcome.explain(errors.CorruptLog("first line\n  second line")) == 3
    one_line(capsys, "first line second line")
    assert outcome.explain(PermissionError(13, "Permission denied", "/some/file")) == 3
    one_line(capsys, "/some/file: Permission denied")
    assert outcome.explain(OSError(5, "Input/output error")) == 3
    one_line(capsys, "the output, or a file of the log, cannot be read or written: Input/output error")


@pytest.mark.parametrize("verb", ["cat", "check", "stat", "tail"])
def test_a_directory_in_place_of_the_manifest(verb, tmp_path, capsys):
    (tmp_path / "manifest").mkdir()
    assert main([verb, str(tmp_path)]) in (1, 3)
    out, err = capsys.readouterr()
    told = " ".join((out + err).split())
    assert "cannot be read" in told and "Is a directory" in told and "output" not in told


@pytest.mark.parametrize(
    ("what", "absent"),
    [
        ("raftlog_mp", ("click", "rich", "asyncio")),
        ("raftlog_mp.cli", ("click", "rich")),
        ("raftlog_mp.cli.commands", ("rich",)),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(what, absent):
    code = f"import sys, {what}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
