"""The hash chain over the batches.

A batch's hash is SHA-256 over the hash of the batch before, then its entries' digest, then its lines' digest. The digest of a table is
SHA-256 over the digests of its columns in order; a column's is SHA-256 over the SHA-256 of three streams, each over the batch's
rows in the order of `batch_row`:

    validity   a byte per row, 1 where there is a value and 0 where it is NULL
    lengths    of a text, in bytes, as 4 bytes little-endian; 0 where it is NULL; nothing for other types
    values     UTF-8 text; dates as 4, timestamps (microseconds since 1970 UTC) and integers as their 4 or 8, and decimals (in units of
               their last place) as 16 bytes, little-endian; zero where it is NULL

Columnar, as casting every amount to text would cost more than writing it; in streams, so that the hash does not depend on how a
batch was cut, and nothing has to be read back or sorted to close one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdc.types import ENTRIES, LINES

BATCH_ROWS = 50_000


class BatchHash:
    """Takes a batch's entries and lines as they come."""

    def __init__(self) -> None:
        self._streams = [[_Streams() for _ in schema] for schema in (ENTRIES, LINES)]

    def entries(self, rows: pa.Table) -> None:
        """The next rows of ENTRIES."""
        _feed(self._streams[0], rows)

    def lines(self, rows: pa.Table) -> None:
        """The next rows of LINES."""
        _feed(self._streams[1], rows)

    def hex(self, prev_hash: str) -> str:
        """The batch's hash, after the batch whose hash is `prev_hash` (empty for the first)."""
        whole = hashlib.sha256(prev_hash.encode("ascii"))
        for columns in self._streams:
            whole.update(_over(column.digest() for column in columns))
        return whole.hexdigest()


class _Streams:
    """The three streams of one column."""

    def __init__(self) -> None:
        self.validity, self.lengths, self.values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def digest(self) -> bytes:
        return _over(stream.digest() for stream in (self.validity, self.lengths, self.values))


def recompute_hash(connection: duckdb.DuckDBPyConnection, batch_seq: int) -> str:
    """A batch's hash from the rows in the store and the stored hash of the batch before. Raises KeyError for an unknown batch."""
    row = connection.execute("SELECT prev_hash FROM ledger.batches WHERE batch_seq = ?", [batch_seq]).fetchone()
    if row is None:
        raise KeyError(batch_seq)
    batch = BatchHash()
    for table, schema, take in (("entries", ENTRIES, batch.entries), ("lines", LINES, batch.lines)):
        sql = f"SELECT {', '.join(schema.names)} FROM ledger.{table} WHERE batch_seq = ? ORDER BY batch_row"
        for rows in connection.execute(sql, [batch_seq]).to_arrow_reader(BATCH_ROWS):
            take(pa.Table.from_batches([rows]).cast(schema))
    return batch.hex(row[0])


def _over(digests: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"".join(digests)).digest()


def _feed(streams: list[_Streams], rows: pa.Table) -> None:
    for stream, column in zip(streams, rows.columns, strict=True):
        for chunk in column.chunks:
            stream.validity.update(_fixed(chunk.is_valid().cast(pa.uint8())))
            if pa.types.is_string(chunk.type):
                _feed_text(stream, chunk)
            else:
                stream.values.update(_fixed(chunk.fill_null(pa.scalar(0, chunk.type)) if chunk.null_count else chunk))


def _feed_text(stream: _Streams, chunk: pa.Array) -> None:
    texts = chunk.fill_null("") if chunk.null_count else chunk
    stream.lengths.update(_fixed(pc.binary_length(texts)))
    _, offsets, values = texts.buffers()
    if values is not None and len(texts):
        ends = memoryview(offsets).cast("i")
        stream.values.update(memoryview(values)[ends[texts.offset] : ends[texts.offset + len(texts)]])


def _fixed(array: pa.Array) -> memoryview:
    width = array.type.bit_width // 8
    return memoryview(array.buffers()[1])[array.offset * width : (array.offset + len(array)) * width]
