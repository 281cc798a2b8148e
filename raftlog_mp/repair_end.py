"""The second half of a repair: where the log ends.  Damaged tail, dropped suffix, damaged ring; the new manifest."""

from __future__ import annotations

from crc32c import crc32c

from . import format as fmt
from . import recovery_table
from .catalog import Catalog, SegmentInfo, clipped
from .config import LogConfig
from .epilogue import end_the_log, take_prefix
from .files import join
from .findings import Plan, make_plan
from .mending import apply_plan
from .producers import ALL_FORGOTTEN, KEPT_BYTES_MAX
from .records import scan_segment
from .remains import Remains, last_term_of_the_dead
from .repair_steps import SegmentMender
from .segment import seal_segment
from .survey import Survey, ending_of, header_of
from .sweeper import remove_segment
from .term_history import runs_of_log
from .walk import entries_in_words

EVIDENCE_BYTES = 4096
KINDS = {  # what start-up would do by itself, and what it is called in a plan
    recovery_table.CUT: "cut", recovery_table.CUT_AT_MARK: "cut", recovery_table.RECREATE: "finish roll",
    recovery_table.OPEN_WITH_LOSS: "settle",
}  # fmt: skip


class Mender(SegmentMender):
    """One run of repair, from the look at the manifest to the new one."""

    def run(self) -> None:
        """Do everything that can be done.  If something is ``blocked`` afterwards, it was a rehearsal, and says why."""
        self._dropped: list[SegmentInfo] = []
        self._highest_term = 0  # of all entries that there were, as far as it is known
        self._beyond = 0  # stream position behind everything that was dropped
        self._find_manifest()
        for info in list(self.manifest.segments):
            self._mend_segment(info)
        self._find_gaps()
        if self.blocked and any(not one.needs for one in self.blocked):
            return  # nothing can be said before the files can be read
        self._highest_term = last_term_of_the_dead(self.directory, self.manifest)
        plan = make_plan(self.files, self.directory, self.manifest)
        self.findings = plan.findings
        if plan.refusal is not None and plan.refusal.letter != "R":
            plan = self._mend_tail(plan)
        if self._cut_at is not None:
            plan = self._truncate(plan, self._cut_at)
        elif self._hopeless is not None:
            index, file, sentence = self._hopeless
            sentence += (
                f". Nothing proves what stood there from entry {index} on: fetch the file from a backup, or give up "
                "everything from there on"
            )
            self._block(file, sentence, f"--truncate-from {index}", index)
        if plan.refusal is not None and plan.refusal.letter == "R":
            self._give_up_ring(plan)
        self._mend_hard_state(plan.last_term)
        if self.blocked:
            return
        self._tell_cuts(plan)
        for info, index_bad, terms_bad in self._bad_caches:  # before a new manifest says of which entries they tell
            self._rebuild_caches(info, index_bad, terms_bad)
        if self._changes_log:
            self._settle(plan)

    def _find_gaps(self) -> None:
        """Segments that do not continue one another: what came between them is gone."""
        segments = self.manifest.segments
        for before, after in zip(segments, segments[1:], strict=False):
            for sentence in Catalog([before, after]).check():
                index = min(after.base_index, (before.last_index or before.base_index - 1) + 1)
                self._give_up_from(index, fmt.segment_name(after.segment_id), sentence)

    # ------------------------------------------------------------ the newest segment
    def _mend_tail(self, plan: Plan) -> Plan:
        """Start-up refuses: seal the newest segment around its damage if the records behind it prove themselves."""
        refusal = plan.refusal
        info = self.manifest.segments[-1] if self.manifest.segments else None
        if info is not None and not info.sealed and self.files.exists(self._path(info)):
            if refusal is not None and refusal.letter == "O":
                self._give_up_from(plan.last_index + 1, refusal.file, refusal.sentence)
            else:
                self._seal_tail(info)
            if self._hopeless is None:
                plan = make_plan(self.files, self.directory, self.manifest)
                refusal = plan.refusal
        if refusal is not None and refusal.letter != "R" and self._hopeless is None:
            self._give_up_from(refusal.first_index or plan.last_index + 1, refusal.file, refusal.sentence)
        return plan

    def _seal_tail(self, info: SegmentInfo) -> None:
        scan = scan_segment(self._path(info), files=self.files, header=header_of(info, self.manifest.log_id))
        seen, (durable, failed) = self._survey(info), self._durable(scan)
        name, found = fmt.segment_name(info.segment_id), ending_of(seen, info, durable, failed=failed)
        if found.hopeless:
            rows = recovery_table.SEGMENT_ROWS
            sentence = next(row.sentence for row in rows if row.letter == ("K" if found.wrong else "J"))
            return self._give_up_from(found.last_index + 1, name, sentence)
        live = [part for part in found.holes if part.next > self.manifest.purged_index + 1]
        if self._cut_at is not None and (live or not found.holes):  # then the log ends before the damage, or not at all
            return self._note_damage(live[0].first) if live else None
        self._accept_holes(info, found.holes)
        return self._seal_at(info, Survey(found.kept), found.end, found.last_index, found.last_term)

    def _seal_at(self, info: SegmentInfo, seen: Survey, end: int, last_index: int, last_term: int) -> None:
        """The unsealed newest segment ends at ``end``; what follows is kept aside."""
        name, files, offset = fmt.segment_name(info.segment_id), self.files, fmt.DATA_OFFSET + end - info.start
        sealed = info.finished(end, last_index, last_term)
        with files.opened(self._path(info), write=True) as fd:
            kept, sentence = self._keep_behind(name, offset), f"it ends with entry {last_index}"
            sentence += "; what comes next goes to a new segment"
            if kept:
                sentence += ". The bytes behind are kept aside and cut"
                first = files.pread(fd, EVIDENCE_BYTES, offset)
                evidence = f"{info.segment_id:016x}:{end}:{crc32c(first):08x}"
                self.manifest.evidence = [*self.manifest.evidence[-63:], evidence]
            kept += self._keep(fmt.index_name(info.segment_id)) + self._keep(fmt.terms_name(info.segment_id))
            self._step("seal", name, sentence, offset=offset, kept_bytes=kept, last_index=last_index)
            files.sync_all(fd)
            self._write_caches(sealed, seen)
            seal_segment(files, fd, header_of(info, self.manifest.log_id), end, last_index, last_term)
        self.manifest.segments = [*self.manifest.segments[:-1], sealed]
        self._changes_log = self._forgets = True

    # ------------------------------------------------------------ a suffix that is given up
    def _may_truncate(self, plan: Plan, index: int) -> bool:
        """Whether the log may end before ``index``; if not, it is blocked with words."""
        name, purged = fmt.MANIFEST_NAME, self.manifest.purged_index
        limit = self._hopeless[0] if self._hopeless is not None else self._damaged_from
        commit = max(self._committed, self.manifest.commit_index, plan.commit_index)
        if limit is None and plan.refusal is None and plan.last_index == index - 1:
            pass  # an interrupted run was finished but for its last words: nothing to do, and nothing to decide
        elif limit is None:
            self._block(name, "no entry is damaged, so nothing is dropped; start a writer and call truncate_from()")
        elif index > limit:
            sentence = f"entry {index} lies above the first damaged one, {limit}"
            self._block(name, sentence, f"--truncate-from {limit}", limit)
        elif index <= purged:
            sentence = f"entry {index} was purged; the first one is {purged + 1}"
            self._block(name, sentence, f"--truncate-from {purged + 1}")
        elif (border := self._hole_before(index)) < index:
            self._block(name, f"entry {index - 1} is lost already", f"--truncate-from {border}", border)
        elif index <= commit and not self._accept:
            self._block(
                name, f"entries up to {commit} are committed, and a Raft node must not lose them. If a majority of the "
                "cluster has them this node may rejoin as new", f"--truncate-from {index} --accept-loss", index,
            )  # fmt: skip
        else:
            return True
        return False

    def _hole_before(self, index: int) -> int:
        """Where the log has to end if it shall end before ``index`` and not with a hole."""
        while (row := self.manifest.lost_at(index - 1)) is not None:
            index = row[0]
        return index

    def _truncate(self, plan: Plan, index: int) -> Plan:
        """Everything from ``index`` on goes; the end of the log is where it then is, durable."""
        if not self._may_truncate(plan, index):
            return plan
        segments = self.manifest.segments
        kept = [info for info in segments if info.base_index < index]
        if index == self.manifest.purged_index + 1:
            kept = []  # what would stay of them was purged, and may be what is damaged
        self._dropped = segments[len(kept) :]
        self._step(
            "drop suffix", fmt.segment_name(segments[-1].segment_id),
            f"every entry from {index} on is dropped; the log ends with entry {index - 1}, durable. A Raft node that "
            "acknowledged them must not vote before its peers have sent them again",
            kept_bytes=self._keep_dropped(), first_index=index, reversible=False,
        )  # fmt: skip
        terms = [i.last_term or i.previous_term for i in segments]
        self._highest_term = max(self._highest_term, plan.last_term, *terms)
        self._beyond = max((i.start + i.file_bytes for i in segments), default=0)
        self.manifest.segments, self.manifest.settled = kept, True  # what the ring holds lies beyond
        self._keep_ring(plan.end)
        if kept:
            self._end_with(kept[-1], index - 1)
        self.manifest.generation += 1  # what the dead writer's control block says of positions is over
        self.manifest.durable = self.manifest.segments[-1].end or 0 if kept else self._beyond
        self.manifest.commit_index = min(self.manifest.commit_index, index - 1)
        self.manifest.failed = False
        self._changes_log = self._forgets = True
        return make_plan(self.files, self.directory, self.manifest)

    def _keep_dropped(self) -> int:
        return sum(self._keep_segment(info.segment_id) for info in self._dropped)

    def _end_with(self, info: SegmentInfo, last_index: int) -> None:
        """The last segment that stays ends with ``last_index``."""
        seen = self._survey(info)
        part = next((part for part in seen.parts if part.good and part.first <= last_index < part.next), None)
        if part is None:
            proved = [part.next for part in seen.parts if part.good and part.next <= last_index]
            border = max([info.base_index, self.manifest.purged_index + 1, *proved])
            sentence = f"entry {last_index}, with which the log would end, cannot be proved; it can end before {border}"
            return self._block(fmt.segment_name(info.segment_id), sentence, f"--truncate-from {border}", border)
        term = next(run[1] for run in reversed(part.runs) if run[0] <= last_index)
        if info.sealed:
            self.manifest.segments = clipped(self.manifest.segments, last_index + 1, term)
            return None
        end = part.end_of(last_index)
        parts = [one for one in seen.parts if one.start < part.start]
        self._accept_holes(info, [one for one in parts if not one.good])
        # A record that holds both what stays and what goes stays as a whole; only the manifest tells.
        whole = part.up_to(end)
        self._seal_at(info, Survey([*parts, whole]), end, whole.next - 1, whole.term)
        self.manifest.segments = clipped(self.manifest.segments, last_index + 1, term)
        return None

    # ------------------------------------------------------------ the ring
    def _keep_ring(self, start: int) -> bytes:
        """What a dead writer's ring holds from ``start`` on, kept aside."""
        old = Remains(self.directory, self.manifest)
        try:
            data = b""
            if old.trusted and old.ring is not None and old.published > start:
                data = old.ring.copy(start, old.published) or b""
        finally:
            old.close()
        if data and self._acts:
            self.files.write_file(join(self.folder, f"ring.{start}"), data)
        return data

    def _give_up_ring(self, plan: Plan) -> None:
        name, first = fmt.ring_name(self.manifest.generation), plan.last_index + 1
        if not self._accept:
            return self._block(
                name, f"entries that were acknowledged from memory, from {first} on, are damaged in the dead writer's "
                "ring. What proves can be kept, the rest is lost; a Raft node that acknowledged them must not vote "
                "before its peers have sent them again", "--accept-loss", first,
            )  # fmt: skip
        data = self._keep_ring(plan.end)
        taken = take_prefix(plan, data, self.manifest)
        plan.refusal, plan.loss_possible = None, True
        plan.findings = [found for found in plan.findings if found.letter != "R"]
        held = entries_in_words(first, plan.last_index)
        sentence = (
            f"{held} are taken from the ring; what was acknowledged behind them is lost: a Raft node must not vote "
            "before its peers have sent it again"
        )
        self._step("give up ring", name, sentence, kept_bytes=len(data), first_index=plan.last_index + 1,
                   reversible=taken == len(data))  # fmt: skip
        self._changes_log = self._forgets = True
        return None

    # ------------------------------------------------------------ the end
    def _tell_cuts(self, plan: Plan) -> None:
        """What start-up would do by itself, as steps."""
        files = self.files
        for found in plan.findings:
            kind = KINDS.get(found.action)
            if kind is None:
                continue
            kept, path = 0, join(self.directory, found.file)
            if files.exists(path):
                with files.opened(path) as fd:
                    kept = len(files.pread(fd, files.size(fd), found.offset or 0).rstrip(b"\0"))
            self._step(kind, found.file, f"{found.sentence} (row {found.letter})", offset=found.offset,
                       kept_bytes=kept, first_index=found.first_index)  # fmt: skip
            self._changes_log = True

    def _settle(self, plan: Plan) -> None:
        """Seal what start-up would seal, end the log with a segment of its own, and state it all in the manifest."""
        files, directory, found = self.files, self.directory, self.manifest
        found.commit_index = min(max(found.commit_index, plan.commit_index), plan.last_index)
        apply_plan(files, directory, found, plan, aside=self.folder)
        runs_of_log(files, directory, found, found.segments, keep=True)
        # As at every start: a segment without entries is no link of the chain; its file goes when a writer starts.
        found.segments = [info for info in found.segments if (info.last_index or 0) >= info.base_index]
        carried = plan.ring_to_new_segment and plan.ring_bytes
        start = plan.file_end if carried else max(plan.end, self._beyond)
        for first, last_lost, *_ in found.lost:
            plan.producers.lose(first, last_lost)
        # A table that knows only that it has forgotten: whoever asks what became of a submission gets OutcomeUnknown.
        budget = min(LogConfig.from_dict(found.config).ring_bytes // 4, KEPT_BYTES_MAX)
        table = ALL_FORGOTTEN if self._forgets or self._rebuilt else plan.producers.snapshot(budget)
        last = end_the_log(files, directory, found, plan, table, start=start)
        found.segments, found.next_segment_id = [*found.segments, last], last.segment_id + 1
        found.generation, found.settled, found.durable = last.generation, True, last.end or 0
        if self._rebuilt:
            found.strategy = found.config["strategy"]
        found.producers = table if found.clean else b""
        if self._cut_at is not None or plan.loss_possible:
            # As a start with a loss: no entry without a term ever gets the id of one that is gone.
            found.term_floor = max(found.term_floor, self._highest_term, plan.last_term, 1) + 1
        self._save_manifest()
        for info in self._dropped:
            remove_segment(files, directory, info.segment_id)
        files.sync_dir(directory)
