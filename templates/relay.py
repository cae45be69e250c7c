"""The sandbox's front door, where nginx stands on a server: a port that leads to whatever release `current` names.

    python3 relay.py PORT DEPLOY_TO

The path is looked up at every connect, so renaming `current` moves the next connection and disturbs none that is open.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

SOCKET = "current/web.sock"  # relative: a unix socket's path may not exceed 107 bytes
PATIENCE = 2.0  # seconds for a release that is being replaced
LINGER = 2.0  # seconds for a visitor to read the end of an answer and hang up
PAGE = b"<!doctype html><title>503</title><p>No release is running here yet.\n"
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)
)


async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """The current release's socket; None when nothing listens there for PATIENCE, or nothing was ever released."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while True:
        try:
            return await asyncio.open_unix_connection(SOCKET)
        except OSError:
            if loop.time() > end or not Path("current").is_symlink():
                return None
            await asyncio.sleep(0.05)


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carries bytes until the source ends, then says so to the other side."""
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
    except OSError:  # either side hung up; the other direction may still have something to deliver
        pass


async def serve(client: asyncio.StreamReader, visitor: asyncio.StreamWriter) -> None:
    release = await connect()
    try:
        if release is None:
            visitor.write(UNAVAILABLE)
            visitor.write_eof()
            await asyncio.wait_for(client.read(), LINGER)
            return
        answers, questions = release
        asking = asyncio.create_task(pump(client, questions))
        await pump(answers, visitor)
        await asyncio.wait([asking], timeout=LINGER)  # closing while the visitor still sends would cut the answer off
        asking.cancel()
    except (OSError, TimeoutError):
        pass
    finally:
        visitor.close()
        if release:
            release[1].close()


async def leave_with(folder: str) -> None:
    """Whoever deletes or moves the sandbox is rid of its processes: without its folder, supervisord is asked to end."""
    try:
        while Path(folder).samefile("."):
            await asyncio.sleep(1)
    except FileNotFoundError:
        pass
    os.kill(os.getppid(), signal.SIGTERM)


async def main(port: int, folder: str) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    async with server:
        if os.environ.get("SUPERVISOR_ENABLED"):
            await leave_with(folder)
        await server.serve_forever()


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    try:
        asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
    except OSError as error:
        sys.exit(f"Cannot listen on 127.0.0.1:{sys.argv[1]}: {error.strerror}.")
    except KeyboardInterrupt:
        pass
