"""Events put aside until it is known whether they count."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from cdc.decode import aside
from cdc.decode.mysql.events import Header

_HEAD = Struct("<IBIIIHI")  # a Header, and the size of the content


class Aside(aside.Aside):
    """Events in the order in which they came, each as its header and content."""

    def append(self, header: Header, content: bytes) -> None:
        """Add an event behind the others. Raises SourceUnavailable where there is no room for it."""
        self.add(_HEAD.pack(*header, len(content)) + content)

    def __iter__(self) -> Iterator[tuple[Header, bytes]]:
        """All events; nothing may be added meanwhile."""
        self._file.seek(0)
        while head := self._file.read(_HEAD.size):
            *fields, size = _HEAD.unpack(head)
            yield Header._make(fields), self._file.read(size)
