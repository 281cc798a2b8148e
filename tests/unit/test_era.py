"""What a reader's map belongs to: the same only if writer, catalog and epoch are the same."""

from __future__ import annotations

import pytest

from raftlog_mp import errors
from raftlog_mp.era import Era, Gone, Overtaken


def test_two_looks_agree_only_if_all_three_do() -> None:
    view = object()
    era = Era(view, 7, 4)
    assert era == Era(view, 7, 4) and era.view is view
    for other in (Era(object(), 7, 4), Era(view, 8, 4), Era(view, 7, 6), Era(None, 7, 4)):
        assert era != other


def test_being_overtaken_never_passes_for_an_error_of_the_log() -> None:
    """It is internal: code that handles the log's errors must not swallow it, and users never see it."""
    assert not issubclass(Overtaken, (errors.RaftLogError, OSError, ValueError, LookupError))
    with pytest.raises(Overtaken):
        try:
            raise Overtaken
        except (errors.RaftLogError, OSError, LookupError):
            pytest.fail("swallowed")


def test_what_a_closed_reader_had_says_so_whatever_is_asked_of_it() -> None:
    gone = Gone("/where/it/was")
    for use in (lambda: gone.last_index, lambda: gone(), lambda: list(gone), lambda: gone.control.load(0)):
        with pytest.raises(errors.LogClosed, match="/where/it/was was closed; open a new one"):
            use()
