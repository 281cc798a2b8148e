"""Arguments and value types that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from ..config import FlushPolicy, parse_flush_policy

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """A number of bytes: ``65536``, ``64K``, ``64M``, ``2G`` (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes as an integer; a usage error for anything else."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)([kmg]?)(?:i?b)?", value.strip(), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no size: give bytes, or a number with K, M or G, as in 64M", param, ctx)
        return int(match[1]) * _UNITS[match[2].lower()]


class Policy(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """A flush policy as text; the library parses it and words the error."""

    name = "policy"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FlushPolicy:
        """The policy; :class:`ConfigError` (exit code 2) for anything else."""
        return parse_flush_policy(value) if isinstance(value, str) else value


SIZE, POLICY = Size(), Policy()

directory = click.argument("directory", metavar="DIR")


def as_json(what: str) -> Callable[[Any], Any]:
    """The ``--json`` option of a command, with what it prints."""
    return click.option("--json", "as_json", is_flag=True, help=what)
