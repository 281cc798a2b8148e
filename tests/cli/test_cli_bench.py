"""``bench``: it measures every case, verifies what was written, and notices when that is wrong."""

from __future__ import annotations

import json

import pytest

from raftlog_mp.cli import main
from raftlog_mp.cli.bench import cases, report, rounds, worker

QUICK = ["bench", "--small", "--seconds", "0.02"]


def test_small_run_as_json(command, tmp_path):
    done = command("bench", "--small", "--json", "--dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert found["rounds"] == 2 and found["small"] is True and found["entry_bytes"] == 256 and found["problems"] == []
    assert found["verified_entries"] > 0 and found["verified_contents"] > 0
    assert [row["name"] for row in found["cases"]] == [case.name for case in cases.CASES]
    for row in found["cases"]:
        assert len(row["ours_rounds"]) == len(row["raw_rounds"]) == 2
        assert row["ours"] > 0 and row["raw"] > 0 and row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["reached"] is (None if row["prototype"] is None else row["reached"])
        assert row["unit"] in ("us", "per_second")
    assert list(tmp_path.iterdir()) == []  # its logs are gone


def test_the_table_shows_every_case(tmp_path, capsys):
    assert main([*QUICK, "--rounds", "1", "--dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for case in cases.CASES:
        assert f"  {case.what} " in shown
    for word in ("prototype", "fdatasync", "round trip", "no problem", "1 rounds of 0.02 s"):
        assert word in shown
    assert "…" not in shown  # nothing is cut off
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= report.WIDTH


def test_wrong_contents_are_noticed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rounds, "payload_of", lambda client, number: worker.payload_of(client, number + 1))
    assert main([*QUICK, "--rounds", "1", "--dir", str(tmp_path)]) == 1
    assert "is not what its client appended" in capsys.readouterr().err


def test_missing_entries_are_noticed(tmp_path, capsys, monkeypatch):
    honest = rounds.Clients.all

    def boastful(self, count, **command):
        answers = honest(self, count, **command)
        return [answer | {"entries": answer["entries"] + 1} if "entries" in answer else answer for answer in answers]

    monkeypatch.setattr(rounds.Clients, "all", boastful)
    assert main([*QUICK, "--rounds", "1", "--dir", str(tmp_path)]) == 1
    assert "entries were acknowledged, the log holds 1.." in capsys.readouterr().err


def test_a_failing_client_is_told_and_nothing_stays(tmp_path, capsys, monkeypatch):
    honest = rounds.Clients.all

    def misled(self, count, **command):
        if command["do"] == "open":
            command["directory"] += "-elsewhere"
        return honest(self, count, **command)

    monkeypatch.setattr(rounds.Clients, "all", misled)
    assert main([*QUICK, "--dir", str(tmp_path)]) == 3
    assert "bench client 0: NotALog: there is no log at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("unit", "ratio", "reached"), [("rate", 1.2, False), ("rate", 1.3, True), ("us", 1.6, True), ("us", 1.7, False)]
)
def test_what_reaching_the_prototype_means(unit, ratio, reached):
    case = cases.Case("name", "what", "disk_one", unit, "one", "disk_first", prototype=(1.3, 1.6))
    assert case.reached(ratio) is reached


def test_latency_beside_rate_is_compared_as_a_rate():
    pipelined = next(case for case in cases.CASES if case.name == "memory_pipelined")
    alone = next(case for case in cases.CASES if case.name == "memory_1")
    assert rounds.limit_in(pipelined, 20.0) == 50_000 and rounds.limit_in(alone, 20.0) == 20.0
