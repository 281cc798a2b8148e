"""The history checker itself: it accepts a sound history and names what is wrong with a doctored one."""

from __future__ import annotations

import pytest
from support.history import Row, Submission, check


def sound() -> tuple[list[Row], list[Submission], list[list[Row]]]:
    log = [Row(1, 1, b"a0"), Row(1, 2, b"b0"), Row(1, 3, b"a1x"), Row(1, 4, b"a1y"), Row(2, 5, b"b1"), Row(2, 6, b"a2")]
    submissions = [
        Submission("a", 0, (b"a0",), 1), Submission("a", 1, (b"a1x", b"a1y"), 3), Submission("a", 2, (b"a2",), None),
        Submission("b", 0, (b"b0",), 2), Submission("b", 1, (b"b1",), 5), Submission("b", 2, (b"b2",), None),
        Submission("b", 3, (b"b3",), None, refused=True),
    ]  # fmt: skip
    return log, submissions, [list(log), log[2:4], []]


def test_a_sound_history_has_no_problem() -> None:
    assert check(*sound()) == []


def lost_ack(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    log.pop()
    followers[0].pop()
    submissions[2] = submissions[2]._replace(first_index=6)


def duplicate(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    log.append(Row(2, 7, b"a0"))


def wrong_index(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    submissions[4] = submissions[4]._replace(first_index=6)


def reordered(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    submissions[0], submissions[2] = submissions[0]._replace(number=2), submissions[2]._replace(number=0)


def torn_batch(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    submissions[1] = submissions[1]._replace(payloads=(b"a1x", b"b1"), first_index=None)


def half_a_batch(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    submissions[2] = submissions[2]._replace(payloads=(b"a2", b"a2y"))


def hole(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    del log[4]


def falling_term(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    log[5] = followers[0][5] = log[5]._replace(term=1)


def follower_saw_else(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    followers[1][1] = followers[1][1]._replace(payload=b"other")


def follower_skipped(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    del followers[0][2]


def from_nowhere(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    log.append(Row(2, 7, b"?"))


def refused_but_there(log: list[Row], submissions: list[Submission], followers: list[list[Row]]) -> None:
    log.append(Row(2, 7, b"b3"))


@pytest.mark.parametrize(
    ("doctor", "sentence"),
    [
        (lost_ack, "nowhere else"), (duplicate, "2 times"), (wrong_index, "acknowledged at index 6"),
        (reordered, "before an earlier one"), (torn_batch, "torn"), (half_a_batch, "1 of its 2 entries"),
        (hole, "where 5 was due"), (falling_term, "term falls"), (follower_saw_else, "follower 1: saw"),
        (follower_skipped, "follower 0: saw index 4 where 3 was due"), (from_nowhere, "nobody sent it"),
        (refused_but_there, "was refused"),
    ],
)  # fmt: skip
def test_a_doctored_history_is_noticed(doctor: object, sentence: str) -> None:
    log, submissions, followers = sound()
    doctor(log, submissions, followers)  # type: ignore[operator]
    assert any(sentence in problem for problem in check(log, submissions, followers))
