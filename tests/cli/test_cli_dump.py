"""``dump``: every record with its verdict, every other file by its fields, and no traceback for any bytes."""

from __future__ import annotations

import base64
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import raftlog_mp as rl
from raftlog_mp.cli import main

from .conftest import flip

SEGMENT = "0000000000000001.seg"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Entries "one" .. "three" in three records, and a batch of two that are no text."""
    path = tmp_path_factory.mktemp("dump") / "log"
    with rl.start_writer(path, rl.LogConfig(idle_mark_ms=60_000)), rl.open_log(path) as log:
        for payload in (b"one", b"two", b"three"):
            log.append(payload, term=2)
        log.append_many([b"\xff\x00", b""], term=3)
    return path


@pytest.fixture
def log(made, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(made, tmp_path / "log", ignore=shutil.ignore_patterns("*.sock"))


def objects(capsys, *arguments, code=0):
    assert main(["dump", "--json", *map(str, arguments)]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def text(capsys, *arguments, code=0):
    assert main(["dump", *map(str, arguments)]) == code
    return capsys.readouterr().out


def test_records_as_json(made, capsys):
    found = [line for line in objects(capsys, made) if line["kind"] == "entries"]
    assert [(line["first_index"], line["last_index"], line["term"]) for line in found] == [
        (1, 1, 2), (2, 2, 2), (3, 3, 2), (4, 5, 3),
    ]  # fmt: skip
    assert {line["verdict"] for line in found} == {"good"} and {line["file"] for line in found} == {SEGMENT}
    entries = [entry for line in found for entry in line["entries"]]
    assert [base64.b64decode(entry["payload"]) for entry in entries] == [b"one", b"two", b"three", b"\xff\x00", b""]
    assert [entry.get("text") for entry in entries] == ["one", "two", "three", None, ""]
    for first, second in zip(found, found[1:], strict=False):
        assert first["position"] + first["bytes"] == second["position"]
        assert (first["producer"], first["sequence"] + 1) == (second["producer"], second["sequence"])


def test_records_as_text(made, capsys):
    lines = text(capsys, made / SEGMENT).splitlines()
    assert lines[0].split() == ["offset", "verdict", "kind", "entries", "term", "gen", "position", "durable",
                                "producer/sequence", "bytes"]  # fmt: skip
    assert lines[1].split()[:4] == ["8192", "good", "producers", "-"]
    assert ["good", "entries", "4..5", "3"] in [line.split()[1:5] for line in lines]
    assert max(map(len, lines)) <= 120 and "three" not in " ".join(lines)


def test_payloads_as_text(made, capsys):
    shown = text(capsys, made, "--entries")
    assert "  3: 'three'\n" in shown and "  4: b'\\xff\\x00'\n" in shown and "  5: ''\n" in shown


def test_damage_is_shown_and_counts(log, capsys):
    flip(log / SEGMENT, 8192 + 89 + 88 + 1)
    found = objects(capsys, log, code=1)
    assert [line["verdict"] for line in found[:3]] == ["good", "bad body", "good"]
    assert [line["damaged"] for line in found[:3]] == [False, True, False] and found[1]["entries"] == []
    assert "bad body" in text(capsys, log / SEGMENT, code=1)


def test_without_a_manifest_all_segments_are_shown(log, capsys):
    (log / "manifest").unlink()
    assert main(["dump", str(log)]) == 0
    out, err = capsys.readouterr()
    assert SEGMENT in out and "manifest is missing or damaged" in err


def test_a_missing_segment_does_not_hide_the_others(log, capsys):
    names = sorted(path.name for path in log.glob("*.seg"))
    (log / names[0]).rename(log / "away")
    assert main(["dump", str(log)]) == 1
    out, err = capsys.readouterr()
    assert names[0] in err and "No such file" in err and names[0] not in out


def test_what_recovery_kept_aside(made, tmp_path, capsys):
    kept = tmp_path / f"{SEGMENT}.8281.0badcafe"
    kept.write_bytes((made / SEGMENT).read_bytes()[8281:])
    assert [line["first_index"] for line in objects(capsys, kept)][:3] == [1, 2, 3]


def test_other_files(made, capsys):
    with rl.open_reader(made) as reader:
        (state,) = objects(capsys, made / "manifest")
        assert state["uuid"] == reader.uuid and state["verdict"] == "good"
    assert [line["voted_for"] for line in objects(capsys, made / "hard_state")] == [None, None]
    head, *rows = objects(capsys, made / SEGMENT.replace("seg", "idx"))
    assert head["slots"] == 5 and rows[-1]["first_index"] == 4 and rows[-1]["last_index"] == 5
    assert objects(capsys, made / SEGMENT.replace("seg", "trm"))[0]["runs"] == [1, 2, 4, 3]
    for name in ("manifest", "hard_state", SEGMENT.replace("seg", "idx"), SEGMENT.replace("seg", "trm")):
        assert "verdict: good" in text(capsys, made / name)


def test_other_files_damaged(log, capsys):
    for name in ("manifest", "hard_state", SEGMENT.replace("seg", "idx"), SEGMENT.replace("seg", "trm")):
        flip(log / name, 50)
        assert objects(capsys, log / name, code=1)[0]["verdict"] == "damaged"
        assert "verdict: damaged" in text(capsys, log / name, code=1)


def test_a_path_that_is_not_there(tmp_path, capsys):
    for path in (tmp_path / "missing.seg", tmp_path):
        assert main(["dump", str(path)]) == 3
        out, err = capsys.readouterr()
        assert out == "" and str(path) in err and len(err.splitlines()) == 1


GARBAGE = st.builds(lambda head, zeros, rest: head + bytes(zeros) + rest,
                    st.sampled_from([b"", b"RLMPSEGM\1\0\0\0", b"RLMPINDX\1\0\0\0", b"RLMPMANI\1\0\0\0", b"RLMPHARD",
                                     b"RLMPTERM\1\0\0\0", b"\xf1RLr"]),
                    st.sampled_from([0, 30, 4096, 8192]), st.binary(max_size=300))  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(data=GARBAGE, name=st.sampled_from([SEGMENT, "x.idx", "x.trm", "manifest", "hard_state", "anything"]))
def test_garbage_gives_an_exit_code_and_no_traceback(tmp_path, capsys, data, name):
    path = tmp_path / name
    path.write_bytes(data)
    for mode in ([], ["--json"], ["--entries"]):
        assert main(["dump", *mode, str(path)]) in (0, 1, 3)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        for line in out.splitlines() if mode == ["--json"] else ():
            json.loads(line)
