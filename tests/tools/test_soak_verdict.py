"""The soak's verdict, on doctored records: each thing that the soak promises must be able to make it FAIL."""

import dataclasses
import zlib
from collections.abc import Callable

import pytest
from soak_check import (
    ACKNOWLEDGED,
    RECORD,
    REFUSED,
    UNKNOWN,
    Claims,
    Payloads,
    Record,
    check_log,
    read_records,
)
from soak_plan import make_plan
from soak_verdict import (
    MIB,
    Limits,
    ReaderEnd,
    Run,
    Sample,
    Stop,
    figures_of,
    problems,
    series_of,
    throughput,
)

SEED = 7
PAYLOADS = Payloads(SEED)
PRODUCERS = {1001: "producer-1", 2001: "producer-2"}
SECONDS = 20.0
LIMITS = Limits(
    ring_bytes=4 * MIB, max_buffered_bytes=4 * MIB, timeout_s=2.0, grace_s=1.0, recovered_share=0.7, must_reach="hard"
)  # fmt: skip


def record(sequence: int, index: int, done_s: float, *, count: int = 2, outcome: int = ACKNOWLEDGED) -> Record:
    return Record(sequence, count, outcome, index, done_s - 0.010, done_s, 0.010, -1.0)


def true_log() -> tuple[list[tuple[int, bytes]], dict[int, list[Record]]]:
    """Both producers append two entries every tenth of a second, in turn."""
    log: list[tuple[int, bytes]] = []
    records: dict[int, list[Record]] = {number: [] for number in PRODUCERS}
    for step in range(int(SECONDS * 10)):
        for number in PRODUCERS:
            sequence, index = 1 + 2 * step, len(log) + 1
            records[number].append(record(sequence, index, step / 10 + 0.05))
            log += [(index + place, PAYLOADS.make(number, sequence + place, 64)) for place in range(2)]
    return log, records


def sample(t: float) -> Sample:
    level = "hard" if 9 <= t < 12 else "soft" if 6 <= t < 13 else "none"
    return Sample(
        t=t, phase="", state="running", level=level, unflushed_bytes=3 * MIB, unflushed_entries=9, index_bytes=MIB,
        rss={"writer": 50 * MIB}, used_share=0.5, fsync_ms=0.0, last_index=0, fsyncs=int(t * 10), fsync_ms_total=t,
    )  # fmt: skip


def true_run() -> Run:
    """A run in which everything held."""
    log, records = true_log()
    plan = make_plan(seconds=SECONDS, producers=2, readers=1, kills=0, stops=0, fsync_ms=0, rate=40, payload_bytes=64,
                     seed=SEED)  # fmt: skip
    integrity = check_log(log, records, PAYLOADS)
    return Run(
        plan, LIMITS, samples=[sample(number / 4) for number in range(int(SECONDS * 4))],
        records={name: records[number] for number, name in PRODUCERS.items()}, integrity=integrity,
        readers=[ReaderEnd("reader-1", integrity.last_index, integrity.chain)],
    )  # fmt: skip


def test_a_true_run_passes() -> None:
    run = true_run()
    assert problems(run) == []
    figures = figures_of(run)
    assert figures["acknowledged"] == figures["entries"] == 800
    assert figures["throughput_before"] == pytest.approx(40, rel=0.3)
    assert figures["seconds_at_level"]["hard"] == pytest.approx(3)


# ------------------------------------------------------------ the log against the records
def without(place: int) -> Callable[[list], None]:
    def doctor(log: list) -> None:
        del log[place]

    return doctor


def changed(place: int) -> Callable[[list], None]:
    def doctor(log: list) -> None:
        index, payload = log[place]
        log[place] = (index, payload[:-1] + bytes([payload[-1] ^ 1]))

    return doctor


def moved_up(log: list) -> None:
    del log[400]
    log[400:] = [(index - 1, payload) for index, payload in log[400:]]


def swapped(log: list) -> None:
    (first, payload), (second, other) = log[10], log[11]
    log[10], log[11] = (first, other), (second, payload)


LOGS = {
    "the last acknowledged entry is missing": (without(-1), "LOST"),
    "an acknowledged entry in the middle is missing": (without(400), "LOST"),
    "missing, and the rest moved up": (moved_up, "LOST"),
    "everything is missing": (list.clear, "LOST"),
    "a payload is there twice": (lambda log: log.append((len(log) + 1, log[5][1])), "twice"),
    "a bit was changed": (changed(7), "nobody sent"),
    "a payload that nobody sent": (lambda log: log.append((len(log) + 1, b"from nowhere" * 9)), "nobody sent"),
    "a producer that never was": (lambda log: log.append((len(log) + 1, PAYLOADS.make(9, 1, 64))), "nobody sent"),
    "two entries changed places": (swapped, "acknowledged at index"),
    "an index is missing": (lambda log: log.append((len(log) + 2, PAYLOADS.make(1001, 9999, 64))), "follows index"),
}


@pytest.mark.parametrize("what", LOGS)
def test_a_doctored_log_fails(what: str) -> None:
    log, records = true_log()
    doctor, said = LOGS[what]
    doctor(log)
    run = dataclasses.replace(true_run(), integrity=check_log(log, records, PAYLOADS))
    assert any(said in line for line in problems(run))


def test_a_lost_acknowledgement_is_named() -> None:
    log, records = true_log()
    del log[-1]
    assert check_log(log, records, PAYLOADS).problems == [
        "LOST: payload 400 of producer 2001, acknowledged at index 800"
    ]


def test_a_refused_payload_must_not_be_there_and_an_unknown_one_may() -> None:
    log, records = true_log()
    last = records[2001][-1]
    for outcome, wrong in ((UNKNOWN, 0), (REFUSED, 2)):
        records[2001][-1] = last._replace(outcome=outcome, index=0)
        found = check_log(log, records, PAYLOADS)
        assert sum("was refused, but is in the log" in line for line in found.problems) == len(found.problems) == wrong
    assert check_log(log[:-2], records, PAYLOADS).problems == []


def test_a_killed_producer_may_have_appended_what_it_did_not_write_down() -> None:
    log, records = true_log()
    del records[2001][-1]
    assert check_log(log, records, PAYLOADS).problems == []


def test_a_late_answer_replaces_unknown() -> None:
    late = [record(1, 0, 1.0, outcome=UNKNOWN), record(1, 5, 9.0)]
    claims = Claims(late)
    assert list(claims.at) == [0, 5, 6] and claims.counts == [2, 0, 0]


# ------------------------------------------------------------ everything else
def over_the_rss_bound(run: Run) -> None:
    run.samples[30] = run.samples[30]._replace(rss={"writer": (4 + 1 + 64) * MIB + 1})


def over_max_buffered(run: Run) -> None:
    run.samples[30] = run.samples[30]._replace(unflushed_bytes=4 * MIB + 1)


def never_alive(run: Run) -> None:
    run.samples = [one._replace(rss={"writer": 0}) for one in run.samples]


def waited_too_long(run: Run) -> None:
    run.records["producer-1"][50] = run.records["producer-1"][50]._replace(overrun_s=LIMITS.grace_s + 0.1)


def nothing_after_the_pressure(run: Run) -> None:
    for name, records in run.records.items():
        run.records[name] = [one for one in records if one.done_s < 14]


def nothing_before_the_pressure(run: Run) -> None:
    for name, records in run.records.items():
        run.records[name] = [one for one in records if one.done_s > 6]


def level_never_hard(run: Run) -> None:
    run.samples = [one._replace(level="soft" if one.level == "hard" else one.level) for one in run.samples]


def other_bytes_for_a_reader(run: Run) -> None:
    run.readers = [run.readers[0]._replace(chain=run.readers[0].chain ^ 1)]


def nothing_acknowledged(run: Run) -> None:
    assert run.integrity is not None
    run.integrity = run.integrity._replace(acknowledged=0)


RUNS: dict[str, tuple[Callable[[Run], object], str]] = {
    "the writer's memory": (over_the_rss_bound, "over its bound of 69.0 MiB"),
    "the unflushed bytes": (over_max_buffered, "over max_buffered_bytes"),
    "a writer that was never seen": (never_alive, "never seen alive"),
    "a wait": (waited_too_long, "producer-1 waited"),
    "no recovery": (nothing_after_the_pressure, "did not recover"),
    "nothing to recover to": (nothing_before_the_pressure, "nothing to recover to"),
    "a level that never rose": (level_never_hard, "never rose above 'soft'"),
    "a level that stays": (lambda run: setattr(run, "final_level", "soft"), "still 'soft'"),
    "a leaked process": (lambda run: run.leaked.append("pid 1: writer"), "left behind: pid 1"),
    "a process that failed": (lambda run: run.failures.append("reader-1 ended with code 1"), "ended with code 1"),
    "a reader that saw other bytes": (other_bytes_for_a_reader, "reader-1 saw other bytes"),
    "a reader that did not end": (lambda run: run.readers.clear(), "0 of 1 readers"),
    "a log that nobody compared": (lambda run: setattr(run, "integrity", None), "was not compared"),
    "nothing acknowledged": (nothing_acknowledged, "nothing was acknowledged"),
}


@pytest.mark.parametrize("what", RUNS)
def test_a_doctored_run_fails(what: str) -> None:
    run = true_run()
    doctor, said = RUNS[what]
    doctor(run)
    found = problems(run)
    assert len(found) == 1 and said in found[0]


def test_bounds_are_bounds_and_not_less() -> None:
    run = true_run()
    run.samples[30] = run.samples[30]._replace(rss={"writer": (4 + 1 + 64) * MIB}, unflushed_bytes=4 * MIB)
    assert problems(run) == []


def test_a_stop_excuses_only_the_one_who_stood_still() -> None:
    run = true_run()
    slow = run.records["producer-1"][50]
    run.records["producer-1"][50] = slow._replace(sent_s=slow.done_s - 4, overrun_s=2.0)
    run.stops = [Stop("producer-1", slow.done_s - 3, slow.done_s - 1)]
    assert problems(run) == []
    run.stops = [Stop("producer-2", slow.done_s - 3, slow.done_s - 1)]
    assert len(problems(run)) == 1


def test_without_injected_pressure_no_level_is_due() -> None:
    run = dataclasses.replace(true_run(), limits=LIMITS._replace(must_reach="none"))
    level_never_hard(run)
    assert problems(run) == []


def test_series_and_throughput() -> None:
    run = true_run()
    series = series_of(run)
    assert sum(series.acknowledged_per_s) * series.width_s == pytest.approx(800)
    assert throughput(series, (4.0, 8.0)) == pytest.approx(40, rel=0.25)
    assert throughput(series, (4.0, 4.1)) == 0.0
    assert series.p50_ms[0] == pytest.approx(10)


# ------------------------------------------------------------ payloads and files
def test_payloads_name_themselves_and_nothing_else_passes() -> None:
    names = {(number, sequence) for number in (1, 1001, 4_000_003) for sequence in (1, 2, 65_536, 1 << 40)}
    made = {PAYLOADS.make(*name, 200) for name in names}
    assert {PAYLOADS.name(payload) for payload in made} == names
    payload = PAYLOADS.make(1, 1, 200)
    for place in range(len(payload)):
        assert PAYLOADS.name(payload[:place] + bytes([payload[place] ^ 4]) + payload[place + 1 :]) is None
    assert PAYLOADS.name(payload[:-1]) is None and PAYLOADS.name(b"") is None
    assert Payloads(SEED + 1).name(payload) is None


def test_half_a_record_of_a_killed_producer_is_left_alone(tmp_path) -> None:
    path = tmp_path / "out"
    whole = [record(number, number, number / 7) for number in (1, 3, 5)]
    data = b"".join(RECORD.pack(*one) for one in whole)
    path.write_bytes(data + data[:20])
    assert read_records(path) == whole
    assert read_records(path, RECORD.size) == whole[1:]


def test_the_chain_is_over_all_payloads_in_order() -> None:
    log, records = true_log()
    chain = 0
    for _, payload in log:
        chain = zlib.crc32(payload, chain)
    assert check_log(log, records, PAYLOADS).chain == chain
