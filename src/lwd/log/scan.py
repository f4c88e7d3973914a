"""Reading MCAP framing from bytes that may be torn, corrupt or hostile: bounded, and exact about where it breaks.

The `mcap` package parses the records. The framing is walked here because the package's own readers accept short
reads, decompress without a limit and can be kept busy for minutes by a file of empty records.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Footer

MAGIC = b"\x89MCAP0\r\n"
MAX_RECORDS = 1_000_000
"""Most records outside chunks. With MAX_MESSAGES it bounds the time that a hostile file can take."""
MAX_MESSAGES = 2_000_000

_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_SKIPPED = frozenset(
    {
        Opcode.HEADER,
        Opcode.SCHEMA,
        Opcode.CHANNEL,
        Opcode.MESSAGE_INDEX,
        Opcode.CHUNK_INDEX,
        Opcode.STATISTICS,
        Opcode.METADATA,
        Opcode.METADATA_INDEX,
        Opcode.SUMMARY_OFFSET,
    }
)


class TornError(Exception):
    """The bytes end before the file does."""


class MalformedError(Exception):
    """The bytes contradict the format or their CRC."""


@dataclass
class Scan:
    """What was read.

    Attributes:
        messages: payloads per topic in file order; message i of a topic has sequence number i.
        broken: why reading stopped before the file's end, None if the file is whole.
    """

    messages: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    broken: TornError | MalformedError | None = None


def scan(data: bytes) -> Scan:
    """Read all whole chunks of an MCAP file. Never raises: where it breaks is said in `broken`."""
    scanner = _Scanner(data)
    try:
        scanner.file()
    except (TornError, MalformedError) as error:
        return Scan(scanner.messages, error)
    except Exception as error:  # the package's record parsers raise whatever garbage makes them raise
        broken = MalformedError(f"a record cannot be parsed: {type(error).__name__}: {str(error)[:80]}")
        return Scan(scanner.messages, broken)
    return Scan(scanner.messages)


class _Scanner:
    def __init__(self, data: bytes) -> None:
        self.messages: dict[str, list[bytes]] = {}
        self._view = memoryview(data)
        self._topics: dict[int, str] = {}
        self._count = 0

    def file(self) -> None:
        """Read the file to its end, or raise where it breaks."""
        view = self._view
        head = view[: len(MAGIC)].tobytes()
        if head != MAGIC:
            if MAGIC.startswith(head):
                raise TornError("not even the file's first 8 bytes are there")
            raise MalformedError("it is not an MCAP file")
        sealed = False
        for number, (opcode, start, end) in enumerate(_records(view, len(MAGIC))):
            if number >= MAX_RECORDS:
                raise MalformedError(f"it has more than {MAX_RECORDS} records")
            if opcode == Opcode.CHUNK and not sealed:
                self._chunk(Chunk.read(_stream(view[start:end])))
            elif opcode == Opcode.DATA_END and not sealed:
                sealed = True
                record = DataEnd.read(_stream(view[start:end]))
                if record.data_section_crc != zlib.crc32(view[: start - _RECORD.size]):
                    raise MalformedError("the data section does not match its CRC")
            elif opcode == Opcode.FOOTER and sealed:
                self._end(start, end)
                return
            elif opcode not in _SKIPPED:
                raise MalformedError(f"a record of type {opcode} is not expected here")
        raise TornError("the file ends before its footer")

    def _end(self, start: int, end: int) -> None:
        """The footer's CRC and the closing magic."""
        footer = Footer.read(_stream(self._view[start:end]))
        if end - start != 20 or not len(MAGIC) <= footer.summary_start <= start:
            raise MalformedError("the footer is malformed")
        if footer.summary_crc != zlib.crc32(self._view[footer.summary_start : end - 4]):
            raise MalformedError("the summary section does not match its CRC")
        tail = bytes(self._view[end : end + len(MAGIC) + 1])
        if tail != MAGIC:
            if MAGIC.startswith(tail):
                raise TornError("the file ends before its closing magic")
            raise MalformedError("the file does not end with its magic")

    def _chunk(self, chunk: Chunk) -> None:
        """All messages of one chunk, or none if it is damaged."""
        if chunk.compression:
            raise MalformedError(f"a chunk is compressed ({chunk.compression[:20]!r}); episode files are not")
        if chunk.uncompressed_size != len(chunk.data) or chunk.uncompressed_crc != zlib.crc32(chunk.data):
            raise MalformedError("a chunk does not match its CRC")
        view = memoryview(chunk.data)
        for opcode, start, end in _records(view, 0):
            if opcode == Opcode.MESSAGE:
                self._message(view[start:end])
            elif opcode == Opcode.CHANNEL:
                record = Channel.read(_stream(view[start:end]))
                if self._topics.setdefault(record.id, record.topic) != record.topic:
                    raise MalformedError(f"channel {record.id} is declared twice")
                self.messages.setdefault(record.topic, [])
            elif opcode != Opcode.SCHEMA:
                raise MalformedError(f"a record of type {opcode} is not expected in a chunk")

    def _message(self, record: memoryview) -> None:
        if len(record) < _MESSAGE.size:
            raise MalformedError("a message is too short")
        channel, sequence, _, _ = _MESSAGE.unpack_from(record)
        topic = self._topics.get(channel)
        if topic is None:
            raise MalformedError(f"a message is on channel {channel}, which is not declared")
        payloads = self.messages[topic]
        if sequence != len(payloads):
            raise MalformedError(f"message {len(payloads)} of {topic[:80]!r} has sequence number {sequence}")
        payloads.append(bytes(record[_MESSAGE.size :]))
        self._count += 1
        if self._count > MAX_MESSAGES:
            raise MalformedError(f"it has more than {MAX_MESSAGES} messages")


def _records(view: memoryview, offset: int) -> Iterator[tuple[int, int, int]]:
    """(opcode, start, end) of each record from `offset`; TornError at one that does not fit."""
    total = len(view)
    while offset < total:
        if total - offset < _RECORD.size:
            raise TornError("the bytes end within a record's head")
        opcode, length = _RECORD.unpack_from(view, offset)
        start = offset + _RECORD.size
        if length > total - start:
            raise TornError(f"a record of {length} bytes has only {total - start}")
        offset = start + length
        yield opcode, start, offset


def _stream(view: memoryview) -> ReadDataStream:
    return ReadDataStream(BytesIO(view))
