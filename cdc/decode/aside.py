"""Bytes put aside until it is known whether they count: in memory up to some MB, then in a temporary file without a name."""

from __future__ import annotations

import os
import weakref
from tempfile import SpooledTemporaryFile, gettempdir

from cdc.errors import SourceUnavailable

MEMORY_MAX = 8 << 20  # bytes of each


class Aside:
    """Bytes in the order in which they came."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile[bytes](max_size=MEMORY_MAX)
        weakref.finalize(self, self._file.close)

    def add(self, data: bytes | bytearray) -> None:
        """Add bytes behind the others. Raises SourceUnavailable where there is no room for them."""
        try:
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)
        except OSError as error:
            raise SourceUnavailable("decode.aside", folder=gettempdir(), detail=error.strerror) from error

    @property
    def end(self) -> int:
        """A place: behind all that is there."""
        return self._file.seek(0, os.SEEK_END)

    def cut(self, place: int) -> None:
        """Forget what was added behind a place."""
        self._file.truncate(place)

    def read(self, place: int, size: int) -> bytes:
        """Up to so many bytes from a place on."""
        self._file.seek(place)
        return self._file.read(size)
