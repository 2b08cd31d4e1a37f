"""One camera's stream, for ``for``, ``async for``, ``with`` and ``async with``."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType

from ._native import Discontinuity, Frame, Source, Track

_log = logging.getLogger("mtxfleet")


class Stream:
    """Frames of one camera, each once and in order.

    ``stream`` is the camera's path on the servers, such as ``cam1`` or ``site/cam1``; ``worker`` this program's own name,
    the same after a restart, which no other running program has. What is not given is taken from the environment:

    ================  ========================  ===================================================================
    argument          environment               what it is
    ================  ========================  ===================================================================
    ``url``           ``MTXFLEET_URL``          the load balancer, without the stream: ``rtsp://live.example:8554``
    ``cluster``       ``MTXFLEET_CLUSTER``      the fleet's name, as in its agents' configuration
    ``redis``         ``MTXFLEET_REDIS``        ``redis://host:port``, through which notices come
    ``agents``        ``MTXFLEET_AGENTS``       some agents' ``http://host:port``, comma-separated: the other way
    ``worker_token``  ``MTXFLEET_WORKER_TOKEN`` the bearer token of workers' reports
    ================  ========================  ===================================================================

    ``via``: ``"direct"`` when this machine reaches the servers' own addresses, ``"stable-url"`` when it sees only the load
    balancer. ``user`` and ``password`` are RTSP's. ``buffer`` frames (1 to 65,536) wait for a program that is behind; then
    reading pauses. Times are in seconds: ``open_timeout`` for the first frame; ``leg_timeout`` and ``cover_timeout`` for a
    new connection in a move; after ``silence_timeout`` without a packet a connection counts as dead; ``give_up_after``
    without any connection the stream ends (``None``: never).

    The connection is made when the stream is first used. A stream is of the process that opened it: after a fork it
    raises ``RuntimeError``.

    Raises ``ValueError`` with everything that is wrong with the arguments.
    """

    def __init__(
        self,
        stream: str,
        worker: str,
        *,
        url: str | None = None,
        cluster: str | None = None,
        redis: str | None = None,
        agents: Sequence[str] | None = None,
        worker_token: str | None = None,
        via: str = "direct",
        user: str | None = None,
        password: str | None = None,
        buffer: int = 256,
        open_timeout: float = 15.0,
        leg_timeout: float = 10.0,
        cover_timeout: float = 20.0,
        silence_timeout: float = 6.0,
        give_up_after: float | None = None,
    ) -> None:
        if agents is None:
            agents = [agent.strip() for agent in os.environ.get("MTXFLEET_AGENTS", "").split(",") if agent.strip()]
        self.name = stream
        self._source = Source(
            stream,
            worker,
            _needed("url", url, "rtsp://live.example:8554"),
            _needed("cluster", cluster, "berlin"),
            redis=redis or os.environ.get("MTXFLEET_REDIS"),
            agents=list(agents),
            worker_token=worker_token or os.environ.get("MTXFLEET_WORKER_TOKEN"),
            via=via,
            user=user,
            password=password,
            buffer=buffer,
            open_timeout=open_timeout,
            leg_timeout=leg_timeout,
            cover_timeout=cover_timeout,
            silence_timeout=silence_timeout,
            give_up_after=give_up_after,
        )

    def open(self) -> Stream:
        """Waits until the stream is open.

        Raises :class:`NotOpened`. Not needed before iteration, which opens it.
        """
        self._source.open()
        return self

    def next(self, timeout: float | None = None) -> Frame | None:
        """The next frame; ``None`` once the stream was closed.

        Raises ``TimeoutError`` after ``timeout`` seconds, with nothing lost, and the errors of iteration.
        """
        frame = self._source.next(timeout)
        return self._noted(frame)

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the stream is closed.

        Raises :class:`NotOpened`, :class:`Gone`, and :class:`TracksChanged` when the camera's settings were changed.
        """
        while (frame := self.next()) is not None:
            yield frame

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """The same for asyncio. Cancelling loses no frame."""
        while True:
            await self._source.ready_async()
            frame = self._noted(self._source.take())
            if frame is None:
                return
            yield frame

    def close(self) -> None:
        """Closes the connections and sends the last reports; a few seconds at most."""
        self._source.close()

    async def aclose(self) -> None:
        """The same for asyncio."""
        await self._source.close_async()

    @property
    def tracks(self) -> list[Track]:
        """The tracks, in the order that ``Frame.track`` counts; the same over all moves."""
        return self._source.tracks

    @property
    def counters(self) -> dict[str, int]:
        """Totals: ``frames``, ``handovers``, ``unproven_handovers``, ``lost_packets``, ``duplicates_dropped``."""
        return self._source.counters

    @property
    def leg(self) -> str | None:
        """Id of the connection that delivers now; ``None`` while none does."""
        return self._source.leg

    def __enter__(self) -> Stream:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Stream:
        await self._source.open_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<mtxfleet.Stream {self.name}>"

    def _noted(self, frame: Frame | None) -> Frame | None:
        if frame is not None and frame.gap is not None:
            self._warn(frame.gap)
        return frame

    def _warn(self, gap: Discontinuity) -> None:
        lost = "an unknown number of" if gap.lost_packets is None else gap.lost_packets
        _log.warning("%s: %s packets are missing before rtp_time %s (%s)", self.name, lost, gap.before, gap.kind)


def _needed(name: str, given: str | None, example: str) -> str:
    found = given or os.environ.get(f"MTXFLEET_{name.upper()}")
    if not found:
        raise ValueError(f"{name}: give it, or set MTXFLEET_{name.upper()}, for example {example!r}")
    return found
