"""What travels over the writer's unix socket: doorbells and control messages.

::

    doorbell   01
    message    02 | length u32 LE | msgpack map

Pure: bytes in, events out.  A peer that sends anything else is dropped by the caller.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from .types import HardState

PROTOCOL_VERSION = 1
CLIENT, READER = "client", "reader"  # roles in hello
BELL = b"\x01"
MESSAGE_BYTES_MAX = 1 << 16
HARD_STATE_BYTES_MAX = 2048
BOUNDARY_INDEX_MAX = (1 << 61) - 1  # of a reset: what follows finds more indexes than can ever be used
_MESSAGE = struct.Struct("<BI")


class ProtocolError(ValueError):
    """The peer does not speak this protocol."""


def pack_message(**fields: Any) -> bytes:
    """One control message as bytes."""
    body: bytes = msgpack.packb(fields)
    return _MESSAGE.pack(2, len(body)) + body


def pack_hard_state(state: HardState) -> bytes:
    """A hard state as the body of a submission."""
    body: bytes = msgpack.packb([state.term, state.voted_for])
    return body


def unpack_hard_state(body: bytes) -> HardState:
    """The inverse; ``ValueError`` for anything else, and for what its slot on disk has no room for."""
    try:
        term, voted_for = msgpack.unpackb(body)
    except Exception as error:  # msgpack raises half a dozen kinds for hostile bytes
        raise ValueError(f"no hard state: {error}") from None
    whole = isinstance(term, int) and 0 <= term < 1 << 63 and isinstance(voted_for, (int, str, type(None)))
    if not whole or isinstance(voted_for, bool) or isinstance(term, bool) or len(body) > HARD_STATE_BYTES_MAX:
        raise ValueError("no hard state")
    return HardState(term, voted_for)


class Parser:
    """Cuts a byte stream into doorbells and messages; keeps what is incomplete."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages completed by ``data``.  Doorbells need no event of their own: arriving woke us."""
        if not self._pending and data.count(BELL) == len(data):
            return []  # the hot case: nothing but bells
        buffer, messages, at = self._pending + data, [], 0
        while at < len(buffer):
            if buffer[at] == 1:
                at += 1
                continue
            if buffer[at] != 2:
                raise ProtocolError(f"byte {buffer[at]:#04x} where a doorbell or a message was due")
            if len(buffer) - at < _MESSAGE.size:
                break
            _, length = _MESSAGE.unpack_from(buffer, at)
            if length > MESSAGE_BYTES_MAX:
                raise ProtocolError(f"message of {length} bytes; at most {MESSAGE_BYTES_MAX} are allowed")
            end = at + _MESSAGE.size + length
            if end > len(buffer):
                break
            messages.append(_decode(buffer[at + _MESSAGE.size : end]))
            at = end
        self._pending = buffer[at:]
        return messages


def _decode(body: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(body)
    except Exception as error:  # msgpack raises half a dozen kinds for hostile bytes
        raise ProtocolError(f"message is no msgpack: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise ProtocolError("message is no map with an 'op'")
    return message
