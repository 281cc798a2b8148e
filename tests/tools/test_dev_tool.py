"""tools/dev.py: set-up, argument passing and the message where no virtual environment can be made.

A shell script stands in for Python: it "makes" a virtual environment by copying itself, and notes every call.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dev
import pytest

FAKE_PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then exit "${PROBE_CODE:-0}"; fi
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; fi
echo "$@" >> "$CALLS"
kept="${PYTHONDONTWRITEBYTECODE-kept} ${PYTHONPYCACHEPREFIX-beside}"
if [ -n "$SHOW_BYTECODE" ]; then echo "bytecode $kept" >> "$CALLS"; fi
case "$*" in
  *" --editable "*) echo "a line of pip"; exit "${PIP_CODE:-0}";;
  sleep) exec sleep 600;;
esac
exit "${JOB_CODE:-0}"
"""


class Project:
    """A project folder with a fake interpreter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pyproject.toml").write_text("[project]\n")
        self.python = root / "fake-python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)

    def calls(self) -> list[str]:
        """What the interpreters were asked to do since the last look."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.setattr(dev, "ROOT", str(tmp_path))
    monkeypatch.setattr(dev, "interpreters", lambda: [str(made.python)])
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return made


def test_a_job_makes_the_environment_installs_and_runs(project: Project) -> None:
    assert dev.main(["demo", "--seconds", "4"]) == 0
    made, installed, ran = project.calls()
    assert made == f"-m venv --clear {project.root}/.venv"
    assert installed.endswith("install --quiet --editable .[server]")
    assert ran == "tools/demo.py --seconds 4"


def test_the_second_time_nothing_is_installed(project: Project) -> None:
    dev.main(["demo"])
    project.calls()
    assert dev.main(["demo"]) == 0
    assert project.calls() == ["tools/demo.py"]


def test_the_test_job_installs_its_own_set_into_the_same_environment(project: Project) -> None:
    dev.main(["demo"])
    project.calls()
    assert dev.main(["test"]) == 0
    installed, ran = project.calls()
    assert installed.endswith(".[server,dev,bench]")
    assert ran.startswith("-m pytest -n")
    dev.main(["demo"])
    assert project.calls() == ["tools/demo.py"]


def test_what_was_installed_for_tests_is_enough_for_the_demo(project: Project) -> None:
    dev.main(["test"])
    project.calls()
    dev.main(["demo"])
    assert project.calls() == ["tools/demo.py"]


@pytest.mark.parametrize("arguments", [["--", "-k", "name"], ["-k", "name"]])
def test_arguments_pass_through(project: Project, arguments: list[str]) -> None:
    dev.main(["test", *arguments])
    assert project.calls()[-1].endswith("-k name")


def test_the_exit_code_is_the_jobs(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    dev.main(["demo"])
    monkeypatch.setenv("JOB_CODE", "5")
    assert dev.main(["demo"]) == 5


def test_other_requirements_make_the_environment_anew(project: Project) -> None:
    dev.main(["demo"])
    project.calls()
    (project.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    dev.main(["demo"])
    assert len(project.calls()) == 3


def test_a_moved_folder_makes_the_environment_anew(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    dev.main(["demo"])
    project.calls()
    moved = project.root / "moved"
    moved.mkdir()
    for name in (".venv", "pyproject.toml"):
        (project.root / name).rename(moved / name)
    monkeypatch.setattr(dev, "ROOT", str(moved))
    dev.main(["demo"])
    assert project.calls()[0] == f"-m venv --clear {moved}/.venv"


def test_a_failed_installation_shows_its_output_and_is_tried_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_CODE", "1")
    assert dev.main(["demo"]) == 1
    said = capfd.readouterr()
    assert "a line of pip" in said.err and "pip install failed" in said.err
    monkeypatch.delenv("PIP_CODE")
    assert dev.main(["demo"]) == 0
    assert "a line of pip" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("unwanted", "folder", "shown"),
    [
        (None, None, "kept beside"),
        ("1", None, "kept {root}/.venv/bytecode"),
        ("1", "/x", "kept /x"),
        ("", None, "kept beside"),
    ],
)
def test_bytecode_is_kept_and_not_where_it_is_unwanted(
    project: Project, monkeypatch: pytest.MonkeyPatch, unwanted: str | None, folder: str | None, shown: str
) -> None:
    for name, value in (("PYTHONDONTWRITEBYTECODE", unwanted), ("PYTHONPYCACHEPREFIX", folder)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOW_BYTECODE", "1")
    assert dev.main(["demo"]) == 0
    assert project.calls()[-1] == "bytecode " + shown.format(root=project.root)


def test_a_job_that_hangs_is_ended(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dev.JOBS, "test", ("all", ["sleep"], 0.2))
    assert dev.main(["test"]) == 1


def test_without_the_means_it_says_in_one_line_what_to_install(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROBE_CODE", "1")
    assert dev.main(["demo"]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "python3-venv" in said and "3.11" in said
    assert project.calls() == []


def test_a_real_interpreter_without_ensurepip_is_told_so(tmp_path: Path) -> None:
    """The whole script, in a process of its own, on a machine that lacks the module (as Debian's bare python3)."""
    (tmp_path / "ensurepip.py").write_text("raise ImportError('not packaged')\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    tool = tmp_path / "tools" / "dev.py"
    tool.parent.mkdir()
    shutil.copy(dev.__file__, tool)
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(tool), "demo"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1 and "install one" in ran.stderr
    assert not (tmp_path / ".venv").exists()


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main([]) == 2 and dev.main(["dance"]) == 2
    assert capsys.readouterr().err.startswith("usage: python3 tools/dev.py")
    assert dev.main(["--help"]) == 0


def test_clean_removes_what_the_jobs_made_and_nothing_else(project: Project) -> None:
    dev.main(["demo"])
    for folder in ("pkg/__pycache__", ".pytest_cache"):
        (project.root / folder).mkdir(parents=True)
    (project.root / "pkg" / "keep.py").touch()
    assert dev.main(["clean"]) == 0
    left = sorted(path.name for path in project.root.rglob("*"))
    assert left == ["calls", "fake-python", "keep.py", "pkg", "pyproject.toml"]


def test_the_makefile_and_ci_only_call_the_tool() -> None:
    root = Path(dev.__file__).resolve().parents[1]
    makefile = (root / "Makefile").read_text()
    verbs = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert verbs == [*dev.JOBS, "clean"]
    commands = [line.strip() for line in makefile.splitlines() if line.startswith("\t")]
    assert commands == ["@python3 tools/dev.py $@ $(ARGS)"]
    ci = root / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert ci.read_text().splitlines()[-1].endswith("exec make test")
