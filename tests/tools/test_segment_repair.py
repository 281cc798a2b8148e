"""The example for people who script segment repair: on sound, damaged and diverging copies of a log."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import pytest
import segment_repair
from unit.journals import append, open_log, stop

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp import recovery

FIRST = fmt.segment_name(1)


@pytest.fixture
def peers(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of a log: entries 1..9, terms 1, 2 and 3."""
    a, b = tmp_path / "a", tmp_path / "b"
    journal, _ = open_log(str(a))
    for index in range(1, 10):
        append(journal, b"entry %d" % index, term=(index + 2) // 3)
    stop(journal)
    (a / fmt.LOCK_NAME).touch(0o600)
    shutil.copytree(a, b)
    return a, b


def hit(log: Path, index: int) -> None:
    raw = bytearray((log / FIRST).read_bytes())
    raw[raw.index(b"entry %d" % index) + 2] ^= 1
    (log / FIRST).write_bytes(raw)


def run(*arguments: object) -> int:
    return segment_repair.main(list(map(str, arguments)))


def ids(log: Path) -> list[tuple[int, int, bytes]]:
    with rl.open_reader(log) as reader:
        return [(e.term, e.index, e.payload) for e in reader.read(reader.first_index)]


def test_walk_tells_what_is_damaged(peers: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("walk", peers[0]) == 0
    assert "9 entries" in capsys.readouterr().out
    hit(peers[0], 5)
    assert run("walk", peers[0]) == 1
    shown = capsys.readouterr().out
    assert "bad body" in shown and "entry 5 of term 2" in shown and "8 entries" in shown
    assert run("walk", peers[0], "--records") == 1
    assert capsys.readouterr().out.count("good ") > 8
    with pytest.raises(SystemExit, match="holds no segments"):
        run("walk", peers[0] / "nowhere")


def test_export_keeps_indexes_and_terms(peers: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    whole, before = peers[1], ids(peers[1])
    hit(peers[0], 5)
    os.unlink(peers[0] / "manifest")  # it goes by the segments alone
    target = peers[0].parent / "new"
    assert run("export", peers[0], target) == 1
    assert "missing: entry 5" in capsys.readouterr().out
    assert ids(target / "from-1") == before[:4] and ids(target / "from-6") == before[5:]
    with rl.open_reader(target / "from-6") as reader:
        assert reader.purged_log_id == (2, 5)
    assert recovery.check_log(target / "from-6").sound
    with pytest.raises(SystemExit, match="exists"):
        run("export", whole, target)


def test_export_leaves_out_what_was_truncated_and_purged(peers: tuple[Path, Path]) -> None:
    journal, _ = open_log(str(peers[0]))
    journal.replace_from(6, [], 0, 0)
    append(journal, b"other", term=7)
    journal.purge_to(2)
    stop(journal)
    target = peers[0].parent / "new"
    assert run("export", peers[0], target) == 0
    assert ids(target / "from-3") == ids(peers[0]) and ids(peers[0])[-1] == (7, 6, b"other")


def test_compare_and_fetch(peers: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = peers
    assert run("compare", a, b) == 0 == run("fetch", a, b)
    hit(a, 5)
    assert run("compare", a, b) == 1
    assert "entry 5: only in B: lost by the other" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="repair"):
        run("fetch", a, b, "--yes")
    recovery.apply(recovery.plan(a))
    assert run("fetch", a, b) == 1
    assert "give --yes" in capsys.readouterr().out
    assert run("fetch", a, b, "--yes") == 0
    assert ids(a) == ids(b) and recovery.check_log(a).sound
    assert run("compare", a, b) == 0


def test_fetch_refuses_what_cannot_be_proved(peers: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = peers
    hit(a, 5)
    recovery.apply(recovery.plan(a))
    before = (a / "manifest").read_bytes()
    with rl.start_writer(b), rl.open_log(b) as log:
        log.truncate_from(8)
        with pytest.raises(SystemExit, match=r"B holds entries 1..7 \(7\), A needs entries 5..9"):
            run("fetch", a, b, "--yes")
        log.append_many([b"other", b"entries"], term=9)
    with pytest.raises(SystemExit, match="another term"):
        run("fetch", a, b, "--yes")
    assert run("compare", a, b) == 1
    assert "entries 8..9 (2): conflict: another term" in capsys.readouterr().out
    assert (a / "manifest").read_bytes() == before


# ---------------------------------------------------------------- made to be copied
def private_names(source: str) -> set[str]:
    """What a script takes from the package that is not public: every name that ``__all__`` does not promise."""
    tree, public = ast.parse(source), {"rl": set(rl.__all__), "recovery": set(recovery.__all__)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names if one.name.startswith("raftlog_mp") and one.name != "raftlog_mp"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raftlog_mp"):
            found |= {f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in public:
            found |= {f"{node.value.id}.{node.attr}"} if node.attr not in public[node.value.id] else set()
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and ast.unparse(node.value) != "self":
            found.add(node.attr)
    return found - {"raftlog_mp.recovery", "_replace"}  # the latter every named tuple has


def test_it_uses_public_names_only() -> None:
    source = Path(segment_repair.__file__).read_text(encoding="utf-8")
    assert "import raftlog_mp as rl" in source and "from raftlog_mp import recovery" in source
    assert private_names(source) == set()
    bent = "from raftlog_mp.walk import Walk\nimport raftlog_mp.manifest\nrl.files.Files()\nrecovery.join\nscan._x\n"
    control = {"raftlog_mp.walk.Walk", "raftlog_mp.manifest", "rl.files", "recovery.join", "_x"}
    assert private_names(source + bent) == control
