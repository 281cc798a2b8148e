"""A batch that rotted, repaired into a known hole, filled again by the leader's AppendEntries."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import no_writer_after

import raftlog_mp as rl
from raftlog_mp import recovery

ENTRIES = [rl.Entry(1, index, b"entry %d" % index) for index in range(1, 10)]


@pytest.fixture
def holed(log_dir: str) -> str:
    """Entries 1..9, of which 5 was damaged on disk and given up by repair."""
    with no_writer_after(log_dir):
        with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
            for entry in ENTRIES:
                log.append(entry.payload, term=1)
        (path,) = Path(log_dir).glob("*.seg")
        raw = bytearray(path.read_bytes())
        raw[raw.index(b"entry 5") + 2] ^= 1
        path.write_bytes(raw)
        assert not recovery.check_log(log_dir).sound
        recovery.apply(recovery.plan(log_dir))
        assert recovery.check_log(log_dir).sound
        yield log_dir


def test_a_hole_is_not_an_entry_that_is_there_already(holed: str) -> None:
    """The leader sends from the hole on: success only because it is filled, in one durable step."""
    with rl.start_writer(holed), rl.open_log(holed) as log:
        with pytest.raises(rl.CorruptLog) as caught:
            log.get(5)
        assert (caught.value.first_index, caught.value.last_index) == (5, 5)
        assert [entry.index for entry in log.read(6)] == [6, 7, 8, 9]
        result = log.append_entries(rl.LogId(1, 4), ENTRIES[4:], leader_term=1)
        assert result == rl.AppendResult(True, rl.LogId(1, 9), rl.LogId(1, 9), None)
        assert log.read(1) == ENTRIES
    with rl.open_reader(holed) as reader:
        assert reader.read(1) == ENTRIES
    assert recovery.check_log(holed).sound


def test_entries_behind_the_hole_do_not_vouch_for_it(holed: str) -> None:
    """An AppendEntries whose prev lies in the hole finds nothing there."""
    with rl.start_writer(holed), rl.open_log(holed) as log:
        result = log.append_entries(rl.LogId(1, 5), ENTRIES[5:], leader_term=1)
        assert not result.success and result.conflict is not None and result.conflict.index <= 5
        with pytest.raises(rl.CorruptLog):
            log.read(1)
        log.truncate_from(5)
        assert log.append_many([entry.payload for entry in ENTRIES[4:]], term=1) == range(5, 10)
        assert log.read(1) == ENTRIES
