"""Events put aside until it is known whether they count: in memory up to some MB, then in a temporary file without a name."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from struct import Struct
from tempfile import SpooledTemporaryFile, gettempdir

from cdc.decode.mysql.events import Header
from cdc.errors import SourceUnavailable

MEMORY_MAX = 8 << 20  # bytes of each
_HEAD = Struct("<IBIIIHI")  # a Header, and the size of the content


class Aside:
    """Events in the order in which they came, each as its header and content."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile[bytes](max_size=MEMORY_MAX)
        weakref.finalize(self, self._file.close)

    def append(self, header: Header, content: bytes) -> None:
        """Add an event behind the others. Raises SourceUnavailable where there is no room for it."""
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(_HEAD.pack(*header, len(content)))
            self._file.write(content)
        except OSError as error:
            raise SourceUnavailable("binlog.aside", folder=gettempdir(), detail=error.strerror) from error

    @property
    def end(self) -> int:
        """A place: behind all that is there."""
        return self._file.seek(0, os.SEEK_END)

    def cut(self, place: int) -> None:
        """Forget what was added behind a place."""
        self._file.truncate(place)

    def __iter__(self) -> Iterator[tuple[Header, bytes]]:
        """All events; nothing may be added meanwhile."""
        self._file.seek(0)
        while head := self._file.read(_HEAD.size):
            *fields, size = _HEAD.unpack(head)
            yield Header._make(fields), self._file.read(size)
