"""The listening side of one worker: accepts clients, sweeps what is overdue, drains."""

import asyncio
from typing import Any

from gateway.every import Every
from gateway.http.client import Client, Handler, Limits
from gateway.http.heads import Head, Heads

SWEEP_SECONDS = 0.25
CLOSE_SECONDS = 1.0


class Server:
    """The listening side of one worker."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.limits = limits
        self.clients: set[Client] = set()
        self.heads = Heads[Head]()
        self.draining = False
        self.early = handler.early
        self.handle = handler.handle
        self.lines = handler.lines
        self.refuse = handler.refuse
        self._listener: asyncio.Server | None = None
        self._sweeper: Every | None = None

    async def listen(self, **where: Any) -> None:
        """Accept connections; `where` as of `loop.create_server`."""
        self._listener = await self.loop.create_server(lambda: Client(self), **where)
        self._sweeper = Every(SWEEP_SECONDS, self._sweep)

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._listener is not None
        port = self._listener.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    async def stop(self, drain_seconds: float) -> None:
        """Accept no more, let requests in flight finish, then close what is left."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        until = self.now() + drain_seconds
        while self.clients and self.now() < until:
            for client in tuple(self.clients):
                client.drain()
            await asyncio.sleep(0.02)
        left = {client.task for client in self.clients if client.task is not None}
        for client in tuple(self.clients):
            client.abort()
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=5.0)
        # Connections are gone a turn of the loop later.
        until = self.now() + CLOSE_SECONDS
        while self.clients and self.now() < until:
            await asyncio.sleep(0.01)
        if self._sweeper is not None:
            self._sweeper.stop()

    def _sweep(self) -> None:
        now = self.now()
        for client in tuple(self.clients):
            if client.deadline < now:
                client.expired()
