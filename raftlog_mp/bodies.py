"""The body of a batch: one payload raw, several as a msgpack array of byte strings.  See docs/format.md."""

from __future__ import annotations

import msgpack
import msgspec

_decode_payloads = msgspec.msgpack.Decoder(list[bytes]).decode


def pack_body(payloads: list[bytes]) -> bytes:
    """The body of a batch: the payload itself for one entry, a msgpack array for several."""
    return payloads[0] if len(payloads) == 1 else msgpack.packb(payloads)


def _array_length(body: bytes | memoryview) -> int:
    """How many elements the head of a msgpack array claims; -1 if it is none."""
    first = body[0] if len(body) else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    return int.from_bytes(body[1:3] if first == 0xDC else body[1:5], "big") if first in (0xDC, 0xDD) else -1


def unpack_body(body: bytes | memoryview, count: int) -> list[bytes]:
    """The payloads of a body.  Raises ``ValueError`` unless it is exactly ``count`` byte strings."""
    if count == 1:
        return [body]  # type: ignore[list-item]  # whoever gives a view takes one
    # A decoder makes room for as many as the head claims: that must not be more than the bytes can hold.
    if _array_length(body) != count or 2 * count >= len(body):
        raise ValueError(f"batch body is not an array of {count} byte strings")
    try:
        return _decode_payloads(body)  # checks every type on its way; msgpack needs a second pass for that
    except (msgspec.MsgspecError, RecursionError, MemoryError) as error:
        raise ValueError(f"batch body is no msgpack array of byte strings: {error}") from None


def even_length(body: bytes | memoryview, count: int) -> int | None:
    """Bytes of each payload, if the body is ``count`` (from 2 on) byte strings of one length; None if it may not be.

    Proved without decoding: the array's header, and at equal distances to the end nothing but the header of such a
    byte string.  For 100 payloads of 256 bytes 0.6 us, where decoding takes 5.4.
    """
    head = 1 if count < 1 << 4 else 3 if count < 1 << 16 else 5
    stride, rest = divmod(len(body) - head, count)
    size = 2 if stride < 2 + (1 << 8) else 3 if stride < 3 + (1 << 16) else 5
    length = stride - size
    if rest or length < 0:
        return None
    array = bytes([0x90 | count]) if head == 1 else bytes([0xDC + (head == 5)]) + count.to_bytes(head - 1, "big")
    string = bytes([0xC4 + (size > 2) + (size > 3)]) + length.to_bytes(size - 1, "big")
    if body[:head] != array:
        return None
    view = memoryview(body)[head:]
    if any(view[at::stride].tobytes() != bytes([byte]) * count for at, byte in enumerate(string)):
        return None
    return length
