"""``bench``: one small run of every case beside every peer, shown in each way, and that wrong results are noticed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from raftlog_mp.cli import main, outcome
from raftlog_mp.cli.bench import cases, clients, machine, plot, report, result, rounds, stores, worker

SECONDS = 0.004  # of one measurement
QUICK = ["bench", "--small", "--rounds", "1", "--seconds", str(SECONDS)]


# ---------------------------------------------------------------- every case, small
def test_every_peer_is_installed():
    """`make test` installs the extra; what is missing is left out of the bench, and of these tests: say so."""
    missing = [name for name in stores.PEERS if name not in stores.installed()]
    if missing:
        pytest.skip(f"the bench is not tested beside {', '.join(missing)}: pip install '.[bench]'")


# Not a fixture for all: with several test workers each would run everything.
@pytest.mark.parametrize("groups", ["durable,sizes", "memory", "reads", "follow,mixed", "open,growth"])
def test_every_case_is_measured_verified_and_shown(groups, tmp_path, capsys):
    chosen = tuple(groups.split(","))
    plan = result.Plan(
        rounds=1, seconds=SECONDS, small=True, full=True, groups=chosen, peers=tuple(stores.installed())
    )
    found = rounds.run(str(tmp_path), plan, lambda _: None)
    assert {path.name for path in tmp_path.iterdir()} <= {"mapped"}  # a file of the raw limits
    assert found.problems == [] and found.verified_contents > 0
    for case in plan.cases:
        check_case(found, case)
    check_data(found)
    report.show(found)
    check_tables(capsys.readouterr().out, plan)
    if any(case.unit == "rate" for case in plan.cases):
        for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            plot.draw(found, str(tmp_path / f"picture.{kind}"))
            assert (tmp_path / f"picture.{kind}").read_bytes().startswith(start)


def check_case(found: result.Result, case: cases.Case) -> None:
    """It was measured beside its limit and its peers."""
    subjects = found.figures[case.name]
    peers = found.plan.peers_of(case) if case.kind != "read_batches" else []
    if case.group == "open" and case.entries > 100_000 and peers:  # none at ten million
        peers.remove("pysyncobj")  # holds all entries in memory
    assert {"ours", *peers} <= set(subjects)
    assert ("raw" in subjects) is (case.limit != "smallest")
    assert all(len(figures) == 1 for figures in subjects.values())
    if case.unit != "bytes":
        assert all(figure > 0 for figures in subjects.values() for figure in figures) and found.ratios(case)


def check_data(found: result.Result) -> None:
    """Everything is in the JSON, in words and numbers that JSON knows."""
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert [row["name"] for row in data["cases"]] == [case.name for case in found.plan.cases]
    assert data["rounds"] == 1 and data["small"] is True and data["entry_bytes"] == 256 and data["problems"] == []
    for word in ("command", "cpu", "cores", "kernel", "python", "filesystem", "version", "peers", "groups", "limits"):
        assert data[word]
    assert set(data["peers"]) | set(data["peers_missing"]) == set(stores.PEERS)
    for row in data["cases"]:
        assert row["unit"] in ("per_second", "us", "bytes")
        assert row["ratio"] is None or row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert all(target["reached"] in (True, False) for target in row["targets"])
        if row["name"] in ("durable_1", "durable_1000", "memory_1"):
            assert 0 <= row["writer_fsyncs_per_append"] <= 2 and row["best_peer"] in ("lmdb", "sqlite3", "rocksdict")
        if row["name"] == "durable_1":
            assert len(row["subjects"]["lmdb"]["percentiles_us"]) == len(row["subjects"]["raw"]["percentiles_us"]) == 99


def check_tables(shown: str, plan: result.Plan) -> None:
    """Every case stands in them, and nothing is cut off."""
    for case in plan.cases:
        assert f"  {case.what} " in shown
    for word in ("prototype", "no problem", "1 rounds of 0.004 s", "small run", "calls fsync zero times"):
        assert word in shown
    assert "…" not in shown
    tables = shown.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= report.WIDTH


# ---------------------------------------------------------------- the command
def test_the_command_leaves_data_and_a_picture_and_nothing_else(command, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    picture = tmp_path / "one.png"
    done = command(*QUICK, "--only", "sizes", "--json", "--plot", picture, "--dir", logs)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert found["groups"] == ["sizes"] and found["command"].startswith("raftlog-mp bench --small")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(logs.iterdir()) == []


def test_sigterm_stops_the_writers_and_removes_the_logs(background, tmp_path):
    process = background("bench", "--only", "sizes", "--seconds", "300", "--dir", tmp_path)
    while not list(tmp_path.glob("raftlog-bench-*/raw")):  # a raw limit is measured while the writer serves
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert sum("serve" in child.cmdline() for child in children) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == outcome.INTERRUPTED
    assert list(tmp_path.iterdir()) == []
    assert psutil.wait_procs(children, 30)[1] == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "reads,writes"], "'writes' is no group: give durable, sizes"),
        (["--plot", "picture.doc"], "give a name that ends in one of"),
        (["--plot", os.path.join("nowhere", "picture.png")], "there is no such folder"),
        (["--only", "growth", "--plot", "picture.png"], "growth measures none of these"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_measured(arguments, complaint, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounds, "run", lambda *_: pytest.fail("it began"))
    assert main(["bench", *arguments]) == 2
    assert complaint in capsys.readouterr().err


# ---------------------------------------------------------------- nothing wrong goes unnoticed
@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one durable case beside one peer."""
    monkeypatch.setattr(stores, "installed", lambda: ["sqlite3"])
    names = ("durable_1", "get_hot", "follow", "mixed_appends", "mixed_gets")
    monkeypatch.setattr(result, "CASES", tuple(case for case in cases.CASES if case.name in names))


def test_wrong_contents_are_noticed(few, tmp_path, capsys, monkeypatch):
    from raftlog_mp.cli.bench import appends, reads

    other = lambda client, number, size=256: worker.payload_of(client, number + 1, size)  # noqa: E731
    monkeypatch.setattr(appends, "payload_of", other)
    monkeypatch.setattr(reads, "payload_of", other)
    assert main([*QUICK, "--only", "durable,reads", "--dir", str(tmp_path)]) == 1
    complaints = capsys.readouterr().err
    for subject in ("ours", "sqlite3"):
        assert f"{subject}: entry 1 is not what its client appended" in complaints
        assert f"{subject}: what get(" in complaints


def test_missing_entries_are_noticed(few, tmp_path, capsys, monkeypatch):
    honest = clients.Clients.answer

    def boastful(self, number):
        answer = honest(self, number)
        return answer | {"entries": answer["entries"] + 1} if "seconds" in answer and "entries" in answer else answer

    monkeypatch.setattr(clients.Clients, "answer", boastful)
    assert main([*QUICK, "--only", "durable,mixed", "--dir", str(tmp_path)]) == 1
    complaints = capsys.readouterr().err
    assert complaints.count("ours: ") == complaints.count("sqlite3: ") == 2
    assert "entries were acknowledged, it holds 1.." in complaints


def test_a_failing_client_is_told_and_nothing_stays(few, tmp_path, capsys, monkeypatch):
    honest = clients.Clients.tell

    def misled(self, number, **command):
        if command["do"] == "open":
            command["directory"] += "-elsewhere"
        honest(self, number, **command)

    monkeypatch.setattr(clients.Clients, "tell", misled)
    assert main([*QUICK, "--only", "durable", "--dir", str(tmp_path)]) == 3
    assert "bench client 0: NotALog: there is no log at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_peer_that_is_not_installed_is_named_and_left_out(few, tmp_path, capsys):
    plan = result.Plan(rounds=1, seconds=1, small=False, groups=("durable",), peers=("sqlite3",))
    found = result.Result(plan, machine.facts(str(tmp_path), plan.peers))
    for subject in ("raw", "ours", "sqlite3"):
        found.add(plan.cases[0], subject, 1000)
    report.show(found)
    shown = capsys.readouterr().out
    assert "lmdb             not installed: left out (pip install '.[bench]', or lmdb)" in shown
    assert "missing          lmdb, rocksdict, pysyncobj" in shown and "best: sqlite3" in shown


# ---------------------------------------------------------------- what the figures mean
CASE = cases.Case("name", "what", "durable", "one", "disk_one")


@pytest.mark.parametrize(
    ("unit", "ratio", "reached"), [("rate", 1.2, False), ("rate", 1.3, True), ("us", 1.6, True), ("us", 1.7, False)]
)
def test_what_reaching_the_prototype_means(unit, ratio, reached):
    case = cases.Case("name", "what", "durable", "one", "disk_one", unit, prototype=(1.3, 1.6))
    assert case.reached(ratio) is reached


@pytest.mark.parametrize(
    ("at_most", "value", "reached"), [(False, 2, True), (False, 1.9, False), (True, 2, True), (True, 2.1, False)]
)
def test_what_reaching_a_target_means(at_most, value, reached):
    assert cases.Target("raw", 2, at_most).reached(value) is reached


def test_latency_beside_rate_is_compared_as_a_rate():
    pipelined = next(case for case in cases.CASES if case.name == "memory_pipelined")
    alone = next(case for case in cases.CASES if case.name == "memory_1")
    assert result.limit_in(pipelined, 20.0) == 50_000 and result.limit_in(alone, 20.0) == 20.0


def test_ratios_are_of_the_same_round_and_the_best_peer_does_as_much_as_ours():
    plan = result.Plan(rounds=3, seconds=1, small=False, peers=tuple(stores.PEERS))
    found = result.Result(plan, {})
    for subject, figures in {"raw": [10, 20, 40], "ours": [5, 5, 5], "lmdb": [1, 2, 5], "sqlite3": [2, 1, 1],
                             "pysyncobj": [99, 99, 99]}.items():  # fmt: skip
        for figure in figures:
            found.add(CASE, subject, figure)
    assert found.ratios(CASE) == [0.5, 0.25, 0.125]
    assert found.best_peer(CASE) == "lmdb" and found.ratios(CASE, "lmdb") == [5, 2.5, 1]
    assert found.values(CASE, cases.Target(cases.BEST, 1)) == [5, 2.5, 1]
    assert found.values(CASE, cases.Target("", 1)) == [5, 5, 5]
    assert found.values(CASE, cases.Target("fsyncs", 1)) == []


def test_growth_is_told_beside_the_smallest_log_of_the_same_round():
    plan = result.Plan(rounds=2, seconds=1, small=False, groups=("growth",))
    small, large = (next(case for case in cases.CASES if case.name == f"growth_append_{n}") for n in ("10k", "1M"))
    found = result.Result(plan, {})
    for case, figures in ((small, [1.0, 2.0]), (large, [3.0, 4.0])):
        for figure in figures:
            found.add(case, "ours", figure)
    assert found.ratios(large) == [3.0, 2.0] and found.ratios(small) == [1.0, 1.0]


def test_the_full_run_adds_ten_million_entries():
    plan = result.Plan(rounds=1, seconds=1, small=False, full=True)
    assert {case.name for case in plan.cases} == {case.name for case in cases.CASES}
    assert {case.entries for case in plan.cases if case.full} == {10_000_000}


def test_flushes_of_the_device_are_counted_or_said_to_be_unknown(tmp_path: Path):
    flushes = machine.Flushes(str(tmp_path))
    first = flushes.count()
    assert first is None or first >= 0
    flushes._path = str(tmp_path / "stat")
    assert flushes.count() is None
    (tmp_path / "stat").write_text("1 2 3", encoding="ascii")
    assert flushes.count() is None
    (tmp_path / "stat").write_text(" ".join(map(str, range(17))), encoding="ascii")
    assert flushes.count() == 15


@pytest.mark.parametrize("line", ["--plot /a/b.png", "--plot=/a/b.png", "--dir /a", "--dir=/a --plot x.png"])
def test_the_command_that_is_kept_names_no_place(line: str) -> None:
    given = ["bench", *line.split(), "--only", "reads", "--json"]
    assert machine.command(given) == "raftlog-mp bench --only reads --json"
