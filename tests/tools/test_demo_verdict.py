"""The demo's verdict, on doctored records: each thing that the demo promises must be able to make it FAIL."""

import math

import pytest
from demo_check import (
    ACKNOWLEDGED,
    REFUSED,
    UNKNOWN,
    Record,
    Request,
    digest_of,
    figures_of,
    problems,
    read_records,
    read_requests,
    write_line,
)


def request(index: int, body: str, outcome: str = ACKNOWLEDGED, done: float = 0.0) -> Request:
    return Request(outcome, digest_of(body.encode()), index, done - 0.010, done, 7, "")


def record(index: int, body: str, term: int = 1) -> Record:
    return Record(index, term, digest_of(body.encode()))


REQUESTS = [request(index, f"body {index}", done=float(index)) for index in range(1, 9)]
LOG = [record(index, f"body {index}") for index in range(1, 9)]


def test_a_true_record_passes() -> None:
    assert problems(REQUESTS, LOG, [LOG, LOG]) == []


def test_an_unknown_outcome_may_be_in_the_log_or_not() -> None:
    unknown = request(0, "body 9", UNKNOWN)
    longer = [*LOG, record(9, "body 9")]
    assert problems([*REQUESTS, unknown], LOG, [LOG]) == []
    assert problems([*REQUESTS, unknown], longer, [longer]) == []


DOCTORED = {
    "the last acknowledged entry is missing": (REQUESTS, LOG[:-1]),
    "an acknowledged entry in the middle is missing": (REQUESTS, LOG[:3] + LOG[4:]),
    "missing, and the rest moved up": (REQUESTS, LOG[:3] + [r._replace(index=r.index - 1) for r in LOG[4:]]),
    "everything is missing": (REQUESTS, []),
    "a body is there twice": (REQUESTS, [*LOG, record(9, "body 4")]),
    "an index is there twice": (REQUESTS, [*LOG, LOG[-1]]),
    "a wrong index was returned": ([*REQUESTS[:-1], request(5, "body 8")], LOG),
    "one index was returned for two bodies": ([*REQUESTS, request(8, "body 9")], LOG),
    "an index beyond the end was returned": ([*REQUESTS[:-1], request(80, "body 8")], LOG),
    "a body that nobody sent": (REQUESTS, [*LOG, record(9, "from nowhere")]),
    "a payload was changed": (REQUESTS, [*LOG[:-1], record(8, "body 8 with a flipped bit")]),
    "a refused request was appended": ([*REQUESTS[:-1], request(0, "body 8", REFUSED)], LOG),
    "a term falls": (REQUESTS, [record(1, "body 1", term=2), *LOG[1:]]),
    "the first index is not 1": (REQUESTS, LOG[1:]),
}


@pytest.mark.parametrize("what", DOCTORED)
def test_a_doctored_log_fails(what: str) -> None:
    requests, log = DOCTORED[what]
    assert problems(requests, log, [log, log]) != []


READERS = {
    "a gap": LOG[:3] + LOG[4:],
    "the end is missing": LOG[:-1],
    "the beginning is missing": LOG[1:],
    "an entry twice": LOG[:4] + LOG[3:],
    "out of order": [*LOG[:2], LOG[3], LOG[2], *LOG[4:]],
    "more than the log": [*LOG, record(9, "ghost")],
    "another body": [*LOG[:-1], record(8, "other")],
    "another term": [*LOG[:-1], record(8, "body 8", term=2)],
    "nothing": [],
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("bad", [0, 1])
def test_a_doctored_reader_fails(what: str, bad: int) -> None:
    readers = [LOG, LOG]
    readers[bad] = READERS[what]
    found = problems(REQUESTS, LOG, readers)
    assert len(found) == 1 and found[0].startswith(f"reader {bad + 1} ")


def test_many_problems_of_one_kind_are_counted() -> None:
    requests = [request(index, f"body {index}") for index in range(1, 101)]
    found = problems(requests, LOG, [])
    assert len(found) == 6 and found[-1] == "... and 87 more of this kind"


def test_records_survive_their_files(tmp_path) -> None:
    requests = [*REQUESTS, Request(UNKNOWN, "d" * 32, 0, 1.5, 2.5, 0, "OSError:\ttwo\nlines")]
    path = tmp_path / "requests"
    path.write_text("".join(write_line(one) for one in requests))
    assert read_requests(path) == [*REQUESTS, requests[-1]._replace(detail="OSError: two lines")]
    path.write_text("".join(write_line(one) for one in LOG))
    assert read_records(path) == LOG


def test_the_gap_is_the_longest_silence_from_the_last_answer_before_the_kill() -> None:
    moments = [1.0, 4.0, 4.1, 4.2, 4.9, 5.0]  # the silence from 1 to 4 is over when the writer is killed at 4.15
    requests = [request(number, str(number), done=moment) for number, moment in enumerate(moments, 1)]
    figures = figures_of(requests, killed_s=4.15)
    assert figures.gap_ms == pytest.approx(700)
    assert figures.after_kill == 3


def test_figures() -> None:
    requests = [*REQUESTS, request(0, "x", REFUSED, done=8.0), request(0, "y", UNKNOWN, done=8.0)]
    figures = figures_of(requests, killed_s=4.5)
    assert (figures.requests, figures.acknowledged, figures.refused, figures.unknown) == (10, 8, 1, 1)
    assert figures.seconds == pytest.approx(7.01) and figures.per_second == pytest.approx(8 / 7.01)
    assert figures.p50_ms == pytest.approx(10) and figures.max_ms == pytest.approx(10)
    assert figures.workers == 1


def test_figures_of_nothing() -> None:
    figures = figures_of([], killed_s=1.0)
    assert figures.acknowledged == 0 and math.isnan(figures.p50_ms) and math.isnan(figures.gap_ms)
