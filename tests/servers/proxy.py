"""A TCP proxy that breaks on command, to stand between a client and a real server."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536
# Bounds what one direction holds back under delay_s: then the sender feels it, as on a real link.
CHUNKS_UNDER_WAY = 64
# Closing a socket that lingers for 0 s sends a reset instead of an orderly end.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Chunk = tuple[float, bytes]


class Proxy:
    """Forwards 127.0.0.1:`port` to a server until told to misbehave. A context manager; use it from any thread.

    A fault is in effect when its method returns. `delay_s` (latency of each direction, in seconds) and `bytes_per_second` (of
    each direction of each connection; 0 means no limit) may be set at any time and hold for what is sent from then on.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay_s = 0.0
        self.bytes_per_second = 0
        self._target = (host, port)
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: asyncio.Server | None = None
        # Bound but never listening: it keeps the port ours while connections are refused.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._holder.close()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def reset(self) -> None:
        """Ends every connection with a TCP reset, both ways. New ones are accepted."""
        self._run(self._reset())

    def freeze(self) -> None:
        """Nothing flows any more, ends of connections included, and all stay open: a half-open network. New ones are accepted, but mute."""
        self._run(self._freeze())

    def thaw(self) -> None:
        """What was held back by `freeze` flows again, nothing of it lost."""
        self._run(self._thaw())

    def refuse(self) -> None:
        """New connections are refused; those that are open go on."""
        self._run(self._refuse())

    def accept(self) -> None:
        """New connections are accepted again, on the same port."""
        self._run(self._accept())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _freeze(self) -> None:
        self._flowing.clear()

    async def _thaw(self) -> None:
        self._flowing.set()

    async def _accept(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._link, sock=_bound(self.port))

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _reset(self) -> None:
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _close(self) -> None:
        await self._refuse()
        await self._reset()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: two directions until both have ended in order, or a reset of both."""
        task = asyncio.current_task()
        assert task is not None
        writers = self._links[task] = [writer]
        in_order = False
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            writers.append(server_writer)
            await self._both(self._forward(reader, server_writer), self._forward(server_reader, writer))
            in_order = True
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, one side reset the connection, or `reset` was called: pass it on as a reset
        finally:
            try:
                await _end(writers, in_order)
            finally:
                del self._links[task]

    async def _both(self, *directions: Coroutine[Any, Any, None]) -> None:
        """Runs coroutines together; the first failure ends the others, once bytes flow: a frozen network tells nothing."""
        tasks = [asyncio.ensure_future(direction) for direction in directions]
        try:
            await asyncio.gather(*tasks)
        except OSError:
            await self._flowing.wait()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunks: asyncio.Queue[Chunk] = asyncio.Queue(CHUNKS_UNDER_WAY)
        await self._both(self._receive(reader, chunks), self._send(chunks, writer))

    async def _receive(self, reader: asyncio.StreamReader, chunks: asyncio.Queue[Chunk]) -> None:
        data = b"more"
        while data:
            data = await reader.read(CHUNK_BYTES)
            await chunks.put((self._loop.time() + self.delay_s, data))

    async def _send(self, chunks: asyncio.Queue[Chunk], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await chunks.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if not data:
                await self._flowing.wait()
                writer.write_eof()
                return
            while data:
                data = await self._send_slice(data, writer)

    async def _send_slice(self, data: bytes, writer: asyncio.StreamWriter) -> bytes:
        """Sends what the limit allows in a tenth of a second, and returns the rest."""
        limit = self.bytes_per_second
        count = max(1, limit // 10) if limit else len(data)
        if limit:
            await asyncio.sleep(min(count, len(data)) / limit)
        await self._flowing.wait()
        writer.write(data[:count])
        await writer.drain()
        return data[count:]


async def _end(writers: list[asyncio.StreamWriter], in_order: bool) -> None:
    """Closes in order, or with a reset; a `reset` that comes while the orderly end still waits for a slow peer turns it into one."""
    if in_order:
        for writer in writers:
            writer.close()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
            return
    for writer in writers:
        with suppress(OSError):  # closed already
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound
