"""Recovery for scripts: look into segments, check a log, copy it, mend it.  A stable surface.

Everything here works on the files of a log.  Looking never changes a byte and needs no writer; ``apply`` is the only
function that changes something, and only what its plan says::

    from raftlog_mp import recovery

    report = recovery.check_log("/var/lib/app/log")             # is anything wrong?  works beside a running writer
    for finding in report.problems:
        print(finding.file, finding.offset, finding.sentence)

    for record in recovery.iter_records(segment_path):          # one segment, record by record, damage included
        if record.verdict is recovery.Verdict.GOOD:
            for entry in record.entries():                      # .index, .term, .payload
                ...
        else:
            print(record.sentence())                            # where, what, and which entries it must have held

    plan = recovery.plan("/var/lib/app/log")                    # what would have to be done?  nothing is changed
    print(*plan.sentences(), sep="\\n")
    if plan.needed and not plan.blocked:                        # .blocked: needs truncate_from= or accept_loss=
        recovery.apply(plan)                                    # every removed byte is kept in quarantine/

    recovery.backup("/var/lib/app/log", "/backup/log")          # a verified copy, while the writer runs

A hole that repair had to leave (``plan.steps`` of kind "salvage") raises :class:`raftlog_mp.CorruptLog` when it is
read, with ``first_index`` and ``last_index``; everything around it is served.  ``tools/segment_repair.py`` in the
repository shows how to export what is good, to compare two copies of a log, and to fetch from a peer what one has lost.
"""

from __future__ import annotations

from .backup import Backup, backup
from .check import Report, check_log
from .diagnoses import Diagnosis
from .findings import Finding
from .records import FoundRecord, SegmentScan, Verdict, iter_records, scan_segment
from .repair import RepairPlan, apply, plan
from .repair_steps import Blocked, Step

__all__ = [
    # one segment
    "iter_records", "scan_segment", "FoundRecord", "SegmentScan", "Verdict",
    # a log
    "check_log", "Report", "Diagnosis", "Finding", "backup", "Backup",
    # mending
    "plan", "apply", "RepairPlan", "Step", "Blocked",
]  # fmt: skip
