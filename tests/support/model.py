"""What a log should do, as a plain list."""

from __future__ import annotations

from .history import Row


class ModelLog:
    """Entries in a list; no process, no file, no time."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @property
    def last_index(self) -> int:
        return len(self.rows)

    @property
    def last_term(self) -> int:
        return self.rows[-1].term if self.rows else 0

    def accepts(self, term: int | None) -> bool:
        """Whether an append with this term is not stale."""
        return term is None or term >= self.last_term

    def append(self, payloads: list[bytes], term: int | None) -> range:
        """The indexes that the entries get."""
        first, term = self.last_index + 1, term if term is not None else max(1, self.last_term)
        self.rows += [Row(term, index, payload) for index, payload in enumerate(payloads, first)]
        return range(first, self.last_index + 1) if payloads else range(0)

    def get(self, index: int) -> Row | None:
        """The entry, or None outside the log."""
        return self.rows[index - 1] if 1 <= index <= self.last_index else None

    def read(self, start: int, stop: int | None, max_bytes: int | None) -> list[Row]:
        """Entries ``start..stop-1``, clipped at the end and by payload bytes, but at least one."""
        rows = [row for row in self.rows if row.index >= start and (stop is None or row.index < stop)]
        if max_bytes is None:
            return rows
        taken, total = [], 0
        for row in rows:
            total += len(row.payload)
            if total > max_bytes and taken:
                break
            taken.append(row)
        return taken
