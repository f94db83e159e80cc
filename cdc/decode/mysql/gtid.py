"""Sets of transactions by their GTIDs: MySQL's executed sets, and MariaDB's positions, which have the last one of each domain.

Both are values: `add` gives a new one, at a cost that does not grow with the numbers. Manuals: MySQL 'GTID Format and Storage';
MariaDB 'Global Transaction ID'.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Self
from uuid import UUID

_Intervals = tuple[tuple[int, int], ...]  # closed, ordered, neither overlapping nor touching

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_INTERVAL = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")
_DOMAIN_GTID = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,20})")
_NUMBER_MAX = (1 << 63) - 2  # the server's GNO_END is no number of a transaction
_TAGGED = 1  # the format byte of an encoding that has tags


class GtidSet:
    """A set of MySQL transactions. A source is a server's UUID in lower case, with a tag as `uuid:tag`; empty ones are not kept."""

    __slots__ = ("_sources",)

    def __init__(self, sources: Mapping[str, _Intervals] | None = None) -> None:
        self._sources: Mapping[str, _Intervals] = sources or {}

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the server's text or any like it: sources and intervals in any order, white space between. Raises ValueError."""
        found: dict[str, list[tuple[int, int]]] = {}
        for part in filter(None, re.sub(r"\s", "", text).lower().split(",")):
            uuid, *rest = part.split(":")
            if not _UUID.fullmatch(uuid) or not rest:
                raise ValueError(f"not a set of GTIDs: {text[:200]!r}")
            source = uuid
            for piece in rest:
                if _TAG.fullmatch(piece):
                    source = f"{uuid}:{piece}"
                else:
                    found.setdefault(source, []).append(_interval(piece))
        return cls({source: _merged(intervals) for source, intervals in found.items()})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From the body of a PREVIOUS_GTIDS_LOG_EVENT: exactly what was executed before a file's begin. Raises ValueError."""
        try:
            return cls(_decoded(data))
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"not an encoded set of GTIDs: {data[:40].hex()}") from error

    def add(self, gtid: str) -> Self:
        """With one transaction more, `uuid:17` or `uuid:tag:17`, written as the server does. The hot path: once per transaction."""
        source, _, text = gtid.rpartition(":")
        number = int(text)
        intervals = self._sources.get(source)
        if not intervals:
            intervals = ((number, number),)
        elif (last := intervals[-1])[1] == number - 1:
            intervals = (*intervals[:-1], (last[0], number))
        else:
            intervals = _with(intervals, number)
        return type(self)({**self._sources, source: intervals})

    def contains(self, gtid: str) -> bool:
        """Whether one transaction is in the set."""
        source, _, text = gtid.rpartition(":")
        number = int(text)
        intervals = self._sources.get(source, ())
        at = bisect_right(intervals, number, key=_start) - 1
        return at >= 0 and number <= intervals[at][1]

    def issubset(self, other: GtidSet) -> bool:
        """Whether `other` has all of these."""
        return not self.difference(other)

    def union(self, other: GtidSet) -> Self:
        """All that one of both has."""
        sources = self._sources.keys() | other._sources.keys()
        return type(self)({source: _merged(chain(self._of(source), other._of(source))) for source in sources})

    def difference(self, other: GtidSet) -> Self:
        """What `other` does not have of these."""
        left = {source: _minus(intervals, other._of(source)) for source, intervals in self._sources.items()}
        return type(self)({source: intervals for source, intervals in left.items() if intervals})

    def encode(self) -> bytes:
        """As COM_BINLOG_DUMP_GTID wants it. A set with tags is understood by MySQL 8.3 and later, others by all."""
        tagged = any(":" in source for source in self._sources)
        count = len(self._sources)
        parts = [struct.pack("<Q", _TAGGED << 56 | count << 8 | _TAGGED if tagged else count)]
        for source, intervals in sorted(self._sources.items()):
            uuid, _, tag = source.partition(":")
            parts.append(bytes.fromhex(uuid.replace("-", "")))
            if tagged:
                parts.append(bytes([len(tag) << 1]) + tag.encode())  # a variable-length integer; a tag's always fits one byte
            parts.append(struct.pack("<Q", len(intervals)))
            parts += [struct.pack("<QQ", start, end + 1) for start, end in intervals]
        return b"".join(parts)

    def _of(self, source: str) -> _Intervals:
        return self._sources.get(source, ())

    def __str__(self) -> str:
        """As the server writes it, without its line breaks: a UUID once, its tags after the numbers that have none."""
        text, above = "", ""
        for source, intervals in sorted(self._sources.items()):
            uuid, _, tag = source.partition(":")
            head = f":{tag}" if uuid == above else f",{source}"
            text += head + "".join(f":{start}-{end}" if end > start else f":{start}" for start, end in intervals)
            above = uuid
        return text[1:]

    def __repr__(self) -> str:
        return f"GtidSet({str(self)!r})"

    def __bool__(self) -> bool:
        return bool(self._sources)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GtidSet) and self._sources == other._sources

    def __hash__(self) -> int:
        return hash(str(self))


class GtidPosition:
    """The last transaction of each MariaDB replication domain: (server id, sequence number) by domain id.

    Numbers grow within a domain, so the last one stands for all before it, whichever server wrote them.
    """

    __slots__ = ("domains",)

    def __init__(self, domains: Mapping[int, tuple[int, int]] | None = None) -> None:
        self.domains: Mapping[int, tuple[int, int]] = domains or {}

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the text of gtid_binlog_pos, or of gtid_binlog_state, where the highest number of a domain counts. Raises ValueError."""
        domains: dict[int, tuple[int, int]] = {}
        for part in filter(None, re.sub(r"\s", "", text).split(",")):
            domain, server, number = domain_gtid(part)
            if domain not in domains or domains[domain][1] <= number:
                domains[domain] = server, number
        return cls(domains)

    def add(self, gtid: str) -> Self:
        """With one transaction more, `0-1-17`: from then on the last of its domain, whatever its number."""
        domain, server, number = gtid.split("-")
        return type(self)({**self.domains, int(domain): (int(server), int(number))})

    def contains(self, gtid: str) -> bool:
        """Whether one transaction is the last of its domain or before it."""
        domain, _, number = gtid.split("-")
        last = self.domains.get(int(domain))
        return last is not None and int(number) <= last[1]

    def issubset(self, other: GtidPosition) -> bool:
        """Whether `other` is as far in every domain."""
        return all(domain in other.domains and number <= other.domains[domain][1] for domain, (_, number) in self.domains.items())

    def __str__(self) -> str:
        return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in sorted(self.domains.items()))

    def __repr__(self) -> str:
        return f"GtidPosition({str(self)!r})"

    def __bool__(self) -> bool:
        return bool(self.domains)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GtidPosition) and self.domains == other.domains

    def __hash__(self) -> int:
        return hash(str(self))


Gtids = GtidSet | GtidPosition


def parse_gtids(text: str) -> Gtids | None:
    """The set or position of a text, whichever server wrote it; None for the empty one, which has no flavour. Raises ValueError."""
    if not text.strip():
        return None
    return GtidSet.parse(text) if ":" in text else GtidPosition.parse(text)


def with_gtid(gtids: Gtids | None, gtid: str) -> Gtids:
    """A set or position with one transaction more; the first one tells the flavour."""
    if gtids is not None:
        return gtids.add(gtid)
    return GtidSet().add(gtid) if ":" in gtid else GtidPosition().add(gtid)


def includes(gtids: Gtids | None, other: Gtids | None) -> bool:
    """Whether `gtids` has all of `other`, both of one flavour."""
    if not other:
        return True
    if isinstance(gtids, GtidSet) and isinstance(other, GtidSet):
        return other.issubset(gtids)
    return isinstance(gtids, GtidPosition) and isinstance(other, GtidPosition) and other.issubset(gtids)


def domain_gtid(text: str) -> tuple[int, int, int]:
    """Domain, server and sequence number of a MariaDB GTID. Raises ValueError."""
    match = _DOMAIN_GTID.fullmatch(text)
    if match is None:
        raise ValueError(f"not a GTID of MariaDB: {text[:200]!r}")
    domain, server, number = (int(part) for part in match.groups())
    if max(domain, server) >= 1 << 32 or number >= 1 << 64:
        raise ValueError(f"not a GTID of MariaDB: {text[:200]!r}")
    return domain, server, number


def _decoded(data: bytes) -> dict[str, _Intervals]:
    (head,) = struct.unpack_from("<Q", data)
    tagged = head >> 56 == _TAGGED
    at = 8
    sources: dict[str, _Intervals] = {}
    for _ in range(head >> 8 & 0xFFFF_FFFF_FFFF if tagged else head):
        uuid, size = struct.unpack_from("<16sB" if tagged else "<16s0s", data, at)
        at += 17 if tagged else 16
        (tag,) = struct.unpack_from(f"<{size >> 1}s", data, at) if tagged else (b"",)
        at += len(tag)
        (count,) = struct.unpack_from("<Q", data, at)
        end = at + 8 + 16 * count
        if end > len(data):
            raise ValueError(f"not an encoded set of GTIDs: {data[:40].hex()}")
        source = str(UUID(bytes=uuid)) + (f":{tag.decode('ascii')}" if tag else "")
        if count:
            sources[source] = _merged(_checked(first, beyond - 1) for first, beyond in struct.iter_unpack("<QQ", data[at + 8 : end]))
        at = end
    return sources


def _start(interval: tuple[int, int]) -> int:
    return interval[0]


def _interval(text: str) -> tuple[int, int]:
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise ValueError(f"not an interval of GTIDs: {text[:200]!r}")
    return _checked(int(match[1]), int(match[2] or match[1]))


def _checked(start: int, end: int) -> tuple[int, int]:
    if not 1 <= start <= end <= _NUMBER_MAX:
        raise ValueError(f"not an interval of GTIDs: {start}-{end}")
    return start, end


def _merged(intervals: Iterable[tuple[int, int]]) -> _Intervals:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def _with(intervals: _Intervals, number: int) -> _Intervals:
    """Intervals with a number that may close a gap, stand in one, or be there already."""
    at = bisect_left(intervals, number, key=_start)
    low, high = max(0, at - 1), min(len(intervals), at + 1)
    return (*intervals[:low], *_merged((*intervals[low:high], (number, number))), *intervals[high:])


def _minus(intervals: _Intervals, holes: _Intervals) -> _Intervals:
    left: list[tuple[int, int]] = []
    at = 0
    for start, end in intervals:
        while at < len(holes) and holes[at][1] < start:
            at += 1
        hole = at
        while hole < len(holes) and holes[hole][0] <= end:
            if start < holes[hole][0]:
                left.append((start, holes[hole][0] - 1))
            start = holes[hole][1] + 1
            hole += 1
        if start <= end:
            left.append((start, end))
    return tuple(left)
