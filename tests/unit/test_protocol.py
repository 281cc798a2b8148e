"""What travels over the socket: any chunking gives the same messages; anything else is refused."""

from __future__ import annotations

import random
import struct

import msgpack
import pytest

from raftlog_mp.protocol import BELL, MESSAGE_BYTES_MAX, Parser, ProtocolError, pack_message

MESSAGES = [{"op": "hello", "n": 1}, {"op": "x", "data": b"\x01\x02" * 300}, {"op": "bye"}]
STREAM = (
    BELL * 3 + pack_message(**MESSAGES[0]) + BELL + pack_message(**MESSAGES[1]) + pack_message(**MESSAGES[2]) + BELL
)


def test_whole_stream_at_once() -> None:
    assert Parser().feed(STREAM) == MESSAGES


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 64])
def test_any_chunk_size(chunk: int) -> None:
    parser, found = Parser(), []
    for at in range(0, len(STREAM), chunk):
        found += parser.feed(STREAM[at : at + chunk])
    assert found == MESSAGES


def test_random_chunks() -> None:
    chooser = random.Random(7)
    for _ in range(200):
        parser, found, at = Parser(), [], 0
        while at < len(STREAM):
            size = chooser.randint(0, 40)
            found += parser.feed(STREAM[at : at + size])
            at += size
        assert found == MESSAGES


def test_bells_alone_are_no_event() -> None:
    parser = Parser()
    assert parser.feed(BELL * 10_000) == [] and parser.feed(b"") == []


@pytest.mark.parametrize("byte", [0, 3, 0x7F, 0xFF])
def test_garbage_is_refused(byte: int) -> None:
    with pytest.raises(ProtocolError, match=f"{byte:#04x}"):
        Parser().feed(BELL + bytes([byte]))
    parser = Parser()
    parser.feed(pack_message(op="x"))
    with pytest.raises(ProtocolError):
        parser.feed(bytes([byte]))


def test_oversize_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(ProtocolError, match=str(MESSAGE_BYTES_MAX)):
        Parser().feed(struct.pack("<BI", 2, MESSAGE_BYTES_MAX + 1))
    body = msgpack.packb({"op": "x", "d": b"\0" * (MESSAGE_BYTES_MAX - 20)})
    assert len(body) <= MESSAGE_BYTES_MAX
    assert len(Parser().feed(struct.pack("<BI", 2, len(body)) + body)) == 1


BAD_BODIES = [b"", b"\xc1", b"\x81", *map(msgpack.packb, ([1], {"op": 1}, {}, None))]


@pytest.mark.parametrize("body", BAD_BODIES)
def test_a_body_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Parser().feed(struct.pack("<BI", 2, len(body)) + body)


def test_random_garbage_raises_nothing_else() -> None:
    chooser = random.Random(3)
    for _ in range(3_000):
        parser = Parser()
        try:
            for _ in range(3):
                parser.feed(chooser.choice([b"\x01", b"\x02", b""]) + chooser.randbytes(chooser.randint(0, 30)))
        except ProtocolError:
            pass
