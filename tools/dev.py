#!/usr/bin/env python3
"""The project's jobs, with all their set-up: ``python3 tools/dev.py JOB [arguments]``.

Jobs: demo, test, bench, crash, storm, soak, lint, clean.

Needs Python >= 3.11 and nothing else: it makes ``.venv``, installs the project with what the job needs, and
runs the job in there.  Arguments after the job go to the job (``-- -k name`` and ``-k name`` alike).  Exit
code: the job's; 1 if an installation fails or a job runs out of time; 2 if no virtual environment can be made.

The syntax is that of Python 3.6 on purpose: an old interpreter must get as far as saying that it is too old.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON_MIN = (3, 11)
TEST_WORKERS = 4  # the tests mostly wait for processes and disks, so more workers than cores pay
TEST_SECONDS_MAX = 570  # all tests together; a hung suite must end by itself

SETS = {"server": "server", "all": "server,dev,bench"}  # name of a set: the extras that it installs
JOBS = {
    # job: (set, command in the virtual environment, seconds it may take)
    "demo": ("server", ["tools/demo.py"], None),
    "test": ("all", ["-m", "pytest", "-n", str(TEST_WORKERS)], TEST_SECONDS_MAX),
    "bench": ("all", ["-m", "raftlog_mp", "bench"], None),
    "crash": ("all", ["tools/crash.py", "--states", "100000"], None),
    "storm": ("all", ["tools/storm.py", "--kills", "2000"], None),
    "soak": ("all", ["tools/memory_soak.py", "--seconds", "600"], None),
    "lint": ("all", ["-m", "ruff", "check", "."], None),
}
LEFTOVERS = [".venv", ".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache", "build", "dist"]

PROBE = f"import sys, venv, ensurepip; sys.exit(sys.version_info < {PYTHON_MIN})"


class SetupError(Exception):
    """The set-up cannot go on.  ``code`` is the exit code."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def say(text):
    """One line a step."""
    print("dev: " + text, file=sys.stderr, flush=True)


def interpreters():
    """Interpreters to try, the one that runs this script first."""
    newer = [f"python3.{minor}" for minor in range(PYTHON_MIN[1] + 5, PYTHON_MIN[1] - 1, -1)]
    found = [shutil.which(name) for name in newer]
    return [sys.executable] + [path for path in found if path]


def can_make_venv(python):
    """Whether that interpreter is new enough and has the means to make a virtual environment."""
    if not python:
        return False
    probe = subprocess.run([python, "-c", PROBE], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, check=False)  # fmt: skip
    return probe.returncode == 0


def base_python():
    """The interpreter to build on.  Raises :class:`SetupError` saying what to install."""
    for python in interpreters():
        if can_make_venv(python):
            return python
    raise SetupError(
        "no Python >= {}.{} with the modules venv and ensurepip was found (this one is {}): install one, "
        "e.g. `sudo apt install python3 python3-venv` or `sudo dnf install python3`, then run this again"
        .format(*PYTHON_MIN, sys.version.split()[0]), 2,
    )  # fmt: skip


def venv_python():
    """Path of the virtual environment's interpreter."""
    return os.path.join(ROOT, ".venv", "bin", "python")


def fingerprint():
    """What an installation depends on: the requirements, the interpreter, and where the project lies."""
    digest = hashlib.sha256()
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        digest.update(file.read())
    digest.update(f"\0{sys.version}\0{ROOT}".encode())
    return digest.hexdigest()


def stamp_path(name):
    """The file that says for which fingerprint a set was installed."""
    return os.path.join(ROOT, ".venv", "stamp-" + name)


def installed(name):
    """Whether the set, or the set of everything, is installed and up to date."""
    if not os.access(venv_python(), os.X_OK):
        return False
    for candidate in (name, "all"):
        try:
            with open(stamp_path(candidate), encoding="ascii") as file:
                if file.read() == fingerprint():
                    return True
        except OSError:
            pass
    return False


def run_quietly(command, what):
    """Run a step; show its output only if it fails."""
    step = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)  # fmt: skip
    if step.returncode:
        sys.stderr.write(step.stdout.decode(errors="replace"))
        raise SetupError(f"{what} failed; its output is above", 1)


def set_up(name):
    """Make the virtual environment and install a set, unless that is done already."""
    if installed(name):
        return
    if not any(installed(other) for other in SETS):  # missing, moved, another Python or other requirements
        python = base_python()
        say(f"making .venv with {python}")
        run_quietly([python, "-m", "venv", "--clear", os.path.join(ROOT, ".venv")], "making .venv")
    extras = SETS[name]
    say(f"installing raftlog_mp[{extras}] (once; takes up to a minute)")
    pip = [venv_python(), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run_quietly([*pip, "--editable", f".[{extras}]"], "pip install")
    with open(stamp_path(name), "w", encoding="ascii") as file:
        file.write(fingerprint())


def environment():
    """The job's environment variables: like ours, but bytecode is always kept.

    A job starts thousands of processes, and compiling the library anew takes each longer than all the rest of
    its start: ``make test`` took 551 s with PYTHONDONTWRITEBYTECODE set.  Who sets it wants no folders
    ``__pycache__`` beside the sources, and gets none.
    """
    variables = dict(os.environ)
    if variables.pop("PYTHONDONTWRITEBYTECODE", ""):
        variables.setdefault("PYTHONPYCACHEPREFIX", os.path.join(ROOT, ".venv", "bytecode"))
    return variables


def run_job(job, arguments):
    """Run a job in the virtual environment; returns its exit code."""
    name, command, seconds_max = JOBS[job]
    set_up(name)
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    say("running " + job)
    process = subprocess.Popen([venv_python(), *command, *arguments], cwd=ROOT, env=environment())
    while True:
        try:
            return process.wait(timeout=seconds_max)
        except KeyboardInterrupt:
            seconds_max = 30  # the terminal's Ctrl-C reached the job too: let it clean up
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest still prints what it has, and ends its workers
            say(f"{job} did not end within {seconds_max} s: stopped")
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return 1


def clean():
    """Remove what the jobs made: the virtual environment and the caches."""
    for name in LEFTOVERS:
        shutil.rmtree(os.path.join(ROOT, name), ignore_errors=True)
    for folder, names, _ in os.walk(ROOT):
        names[:] = [name for name in names if name != ".git"]
        if "__pycache__" in names:
            names.remove("__pycache__")
            shutil.rmtree(os.path.join(folder, "__pycache__"), ignore_errors=True)
    return 0


def main(arguments):
    """Entry point; returns the exit code."""
    jobs = [*JOBS, "clean"]
    if not arguments or arguments[0] not in jobs:
        asked_for_help = arguments[:1] in (["-h"], ["--help"])
        print(f"usage: python3 tools/dev.py {'|'.join(jobs)} [-- arguments of the job]",
              file=sys.stdout if asked_for_help else sys.stderr)  # fmt: skip
        return 0 if asked_for_help else 2
    if arguments[0] == "clean":
        return clean()
    try:
        return run_job(arguments[0], arguments[1:])
    except SetupError as error:
        say(str(error))
        return error.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
