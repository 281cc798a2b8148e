"""The rules of the house: layers, doors, sizes, names.  A rule that is only written down does not hold."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raftlog_mp

PACKAGE = Path(raftlog_mp.__file__).parent
TESTS = Path(__file__).parents[1]

# From the ground up.  A module imports only from lines above its own; siblings do not import each other.
LAYERS = (
    "errors types",  # the words
    "config format bodies layout protocol",  # format = disk bytes, layout = memory words; no I/O, no clock
    "flush adaptive pressure patience pace matching recovery_table batches",  # decisions: pure, of numbers and facts
    "files shm wakeup processes probe memory device",  # the doors
    "control ring lane index segment chunk catalog hard_state producers metrics terms era walk",  # one structure each
    "manifest syncer view sweeper records shortage preparation shelf",  # structures made of structures
    "survey segment_check scrubber rebuild changes",
    "remains pipeline term_history",
    "next_segment",
    "rolling",
    "place findings journal",  # acts across structures
    "mending moment diagnoses epilogue",
    "startup sessions waiters orders arguments answers relief lock"  # parts of a role
    " backup repair_steps rehearsal provable",
    "link reserve pacing repair_end check ticket",
    "straight",
    "intake client source repair",
    "grouping completions",
    "straight_round",
    "writer reader requests recovery",  # the roles
    "follow spawned",
    "log_reader lifecycle",  # the public handles
    "log",
    "aio",
    "__init__",
    "cli testing",
    "__main__",
)
LAYER = {name: number for number, line in enumerate(LAYERS) for name in line.split()}

DOORS = {"files", "shm", "wakeup", "processes", "probe", "memory", "device"}
# What touches the world: files, memory, sockets, processes, clocks.
WORLD = {
    "os", "mmap", "socket", "select", "selectors", "subprocess", "signal", "fcntl", "ctypes", "psutil", "time",
    "tempfile", "shutil", "pathlib", "glob", "io", "multiprocessing", "asyncio", "resource", "atomicshm", "sys",
}  # fmt: skip
# Known exceptions, each with its reason; a new one is a decision, not an oversight.
WORLD_BESIDES = {
    ("aio", "asyncio"): "the whole point of it; it waits in threads and touches nothing else",
    ("config", "pathlib"): "from_toml(path) reads the user's own settings file, never a file of the log",
    ("__main__", "sys"): "its arguments and its exit code",
}
# Bytes are laid out in one place for the disk, one for memory, one for the wire, one for the dense index.
STRUCT = {"format", "layout", "protocol", "index"}
STRUCT_BESIDES = {
    "wakeup": "SO_PEERCRED returns a struct of the kernel, not one of ours",
    "cli": "the bench packs keys and values of lmdb and rocksdict, none of ours",
}

FILE_LINES, FUNCTION_LINES = 400, 70


@functools.cache
def modules() -> dict[str, list[Path]]:
    """Module or subpackage of the top level -> its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return found


def files_of() -> list[tuple[str, Path]]:
    return [(name, path) for name, paths in modules().items() for path in paths]


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """``(level, dotted name)`` of everything imported, outside ``if TYPE_CHECKING``."""
    skipped = {
        id(inner)
        for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body for inner in ast.walk(statement)
    }  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield from ((node.level, f"{base}.{alias.name}".lstrip(".")) for alias in node.names)


def own_imports(path: Path, tree: ast.Module) -> set[str]:
    """Top-level modules of this package that a file imports."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for level, name in imports(tree):
        if level == depth or name.split(".")[0] == "raftlog_mp":
            inside = name.removeprefix("raftlog_mp").lstrip(".").split(".")[0]
            found.add(inside if inside in modules() else "__init__")
    return found


def outside_imports(tree: ast.Module) -> set[str]:
    return {name.split(".")[0] for level, name in imports(tree) if level == 0}


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def upward(name: str, wanted: set[str]) -> list[str]:
    """What ``name`` may not import out of ``wanted``."""
    return sorted(other for other in wanted if other != name and LAYER[other] >= LAYER[name])


# ---------------------------------------------------------------- layers
def test_every_module_has_a_layer() -> None:
    assert set(modules()) == set(LAYER)


@pytest.mark.parametrize("name", sorted(LAYER))
def test_imports_point_downward(name: str) -> None:
    for path in modules().get(name, []):
        wrong = upward(name, own_imports(path, parse(path)))
        assert not wrong, f"{path.name} (layer {LAYER[name]}) imports {wrong}: only lower layers are allowed"


def test_control_an_upward_import_is_caught() -> None:
    tree = ast.parse("def later():\n    from .journal import Journal\n")
    assert upward("ring", own_imports(PACKAGE / "ring.py", tree)) == ["journal"]
    tree = ast.parse("from . import findings\nimport raftlog_mp.place")
    assert upward("journal", own_imports(PACKAGE / "journal.py", tree)) == ["findings", "place"]


# ---------------------------------------------------------------- doors
@pytest.mark.parametrize("name", sorted(set(LAYER) - DOORS - {"cli"}))
def test_only_the_doors_touch_the_world(name: str) -> None:
    for path in modules().get(name, []):
        touched = {what for what in outside_imports(parse(path)) & WORLD if (name, what) not in WORLD_BESIDES}
        assert not touched, f"{path.name} imports {sorted(touched)}: go through a door ({sorted(DOORS)})"


def test_exceptions_are_still_needed() -> None:
    used = {(name, what) for name, path in files_of() for what in outside_imports(parse(path))}
    assert set(WORLD_BESIDES) <= used
    assert {(name, "struct") for name in STRUCT_BESIDES} <= used


def test_bytes_are_laid_out_in_few_places() -> None:
    users = {name for name, path in files_of() if "struct" in outside_imports(parse(path))}
    assert users <= STRUCT | set(STRUCT_BESIDES)


def test_no_environment_variables_are_read() -> None:
    """A started writer inherits the environment (processes); nothing looks into it."""
    for name, path in files_of():
        for node in ast.walk(parse(path)):
            word = getattr(node, "attr", getattr(node, "id", ""))
            assert word not in ("getenv", "getenvb", "environb"), f"{path.name}:{node.lineno}"
            assert word != "environ" or name == "processes", f"{path.name}:{node.lineno}"


def test_only_the_command_line_prints() -> None:
    for name, path in files_of():
        for node in ast.walk(parse(path)):
            printed = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not printed or name == "cli", f"{path.name}:{node.lineno}"


def test_import_is_light() -> None:
    """``import raftlog_mp`` must not load an event loop or a terminal library into every worker."""
    heavy = {"asyncio", "click", "rich", "multiprocessing", "raftlog_mp.cli"}
    code = f"import sys, raftlog_mp; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- sizes and names
EVERY_FILE = pytest.mark.parametrize(
    ("name", "path"), [pytest.param(name, path, id=str(path.relative_to(PACKAGE))) for name, path in files_of()]
)


def too_long(path: Path) -> list[str]:
    """The file and its functions that are over their limits."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    found = [f"{path.name} has {lines} lines"] if lines > FILE_LINES else []
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(f"{path.name}:{node.lineno} {node.name} has {length} lines")
    return found


@EVERY_FILE
def test_files_and_functions_are_short(name: str, path: Path) -> None:
    assert too_long(path) == []


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_files_and_functions_of_the_tests_are_short(path: Path) -> None:
    assert too_long(path) == []


def test_control_a_long_file_and_a_long_function_are_caught(tmp_path: Path) -> None:
    fits, path = tmp_path / "fits.py", tmp_path / "long.py"
    body, rest = "    pass\n" * (FUNCTION_LINES - 1), FILE_LINES - FUNCTION_LINES
    fits.write_text("def just_right():\n" + body + "\n" * rest)
    assert too_long(fits) == []
    path.write_text("def too_much():\n" + body + "    pass\n" + "\n" * rest)
    lines, length = FILE_LINES + 1, FUNCTION_LINES + 1
    assert too_long(path) == [f"long.py has {lines} lines", f"long.py:1 too_much has {length} lines"]


def test_modules_are_named_after_what_they_hold() -> None:
    names = {path.stem for _, path in files_of()}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


@EVERY_FILE
def test_everything_public_says_what_it_is(name: str, path: Path) -> None:
    tree = parse(path)
    if name != "__main__":
        assert ast.get_docstring(tree), f"{path.name} has no docstring"
    silent = [f"{path.name}:{node.lineno} {where}" for node, where in public(tree) if not ast.get_docstring(node)]
    assert not silent


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(tree: ast.Module) -> Iterator[tuple[Definition, str]]:
    """Public functions, classes and their public methods."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node, node.name
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, Definition) and not inner.name.startswith("_"):
                    yield inner, f"{node.name}.{inner.name}"
