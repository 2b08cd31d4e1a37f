"""One camera's stream, for ``for``, ``async for``, ``with`` and ``async with``."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from ._native import Bell, Discontinuity, Frame, Source, Start, Track
from ._native import serve_metrics as _serve_metrics

_log = logging.getLogger("mtxfleet")


@dataclass(frozen=True)
class Checkpoints:
    """When frames count as finished with, and how often that is written.

    A worker that starts again, under the same name, gets exactly the frames after the last one that it had finished with:
    from the recording first (``frame.replayed``), then live, without a seam.
    """

    #: Only ``frame.done()`` finishes a frame. Otherwise a frame is finished with once the next one is asked for, and the
    #: last one when the stream is closed; not when an exception leaves ``with stream:``, which may be of its processing.
    explicit: bool = False
    #: Written when so many frames were finished with since the last time ...
    every_frames: int = 25
    #: ... or one was, and so many seconds have passed.
    every: float = 1.0
    #: Folder of the journal, a small file for each worker and stream: what Redis misses while it is away.
    journal: str | os.PathLike[str] | None = None


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
    ``worker_token``  ``MTXFLEET_WORKER_TOKEN`` the bearer token of workers' reports, and of recordings
    ================  ========================  ===================================================================

    ``via``: ``"direct"`` when this machine reaches the servers' own addresses, ``"stable-url"`` when it sees only the load
    balancer. ``user`` and ``password`` are RTSP's.

    ``checkpoints``: ``True``, or :class:`Checkpoints` with settings. They need ``redis``, a journal, or both.
    ``redundancy=2`` reads over two servers at all times, so that the crash of one costs no pause; it needs ``agents``.
    With ``recordings`` (and ``agents`` and ``worker_token``) frames that no connection brings are read from the recording.

    ``on_discontinuity`` is called with each :class:`Discontinuity`, before the frame after it is given, in the thread that
    asks for it. ``buffer`` frames (1 to 65,536) wait for a program that is behind; then reading pauses.

    Times are in seconds: ``open_timeout`` for the first frame; ``leg_timeout`` and ``cover_timeout`` for a new connection in
    a move; after ``silence_timeout`` without a packet a connection counts as dead; for ``recording_timeout`` live frames
    wait for what a recording still has to give; ``give_up_after`` without any connection the stream ends (``None``: never).

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
        checkpoints: bool | Checkpoints = False,
        redundancy: int = 1,
        recordings: bool = True,
        on_discontinuity: Callable[[Discontinuity], object] | None = None,
        buffer: int = 256,
        open_timeout: float = 15.0,
        leg_timeout: float = 10.0,
        cover_timeout: float = 20.0,
        silence_timeout: float = 6.0,
        recording_timeout: float = 5.0,
        give_up_after: float | None = None,
    ) -> None:
        if agents is None:
            agents = [agent.strip() for agent in os.environ.get("MTXFLEET_AGENTS", "").split(",") if agent.strip()]
        rules = Checkpoints() if checkpoints is True else checkpoints or None
        self.name = stream
        self.on_discontinuity = on_discontinuity
        self._checkpoints = rules is not None
        self._automatic = rules is not None and not rules.explicit
        self._given: Frame | None = None
        self._source = Source(
            {
                "stream": stream,
                "worker": worker,
                "url": _needed("url", url, "rtsp://live.example:8554"),
                "cluster": _needed("cluster", cluster, "berlin"),
                "redis": redis or os.environ.get("MTXFLEET_REDIS"),
                "agents": list(agents),
                "worker_token": worker_token or os.environ.get("MTXFLEET_WORKER_TOKEN"),
                "via": via,
                "user": user,
                "password": password,
                "checkpoints": rules,
                "redundancy": redundancy,
                "recordings": recordings,
                "buffer": buffer,
                "open_timeout": open_timeout,
                "leg_timeout": leg_timeout,
                "cover_timeout": cover_timeout,
                "silence_timeout": silence_timeout,
                "recording_timeout": recording_timeout,
                "give_up_after": give_up_after,
            }
        )

    def open(self) -> Stream:
        """Waits until the stream is open.

        Raises :class:`NotOpened`, and :class:`CheckpointError` when the checkpoint cannot be used. Not needed before
        iteration, which opens it.
        """
        self._source.open()
        return self

    def next(self, timeout: float | None = None) -> Frame | None:
        """The next frame; ``None`` once the stream was closed.

        Raises ``TimeoutError`` after ``timeout`` seconds, with nothing lost, and the errors of iteration.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            item = self._item(timeout)
            if not isinstance(item, Discontinuity):
                return item
            if until is not None:
                timeout = max(0.0, until - time.monotonic())

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the stream is closed.

        Raises :class:`NotOpened`, :class:`Gone`, :class:`CheckpointError`, and :class:`TracksChanged` when the camera's
        settings were changed.
        """
        while (item := self._item()) is not None:
            if not isinstance(item, Discontinuity):
                yield item

    def events(self) -> Iterator[Frame | Discontinuity]:
        """Frames, and each :class:`Discontinuity` as an item of its own before the frame after it."""
        while (item := self._item()) is not None:
            yield item

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """The same as iteration, for asyncio. Cancelling loses no frame."""
        watched = _Watched()
        try:
            while (item := await self._aitem(watched)) is not None:
                if not isinstance(item, Discontinuity):
                    yield item
        finally:
            watched.close()

    async def aevents(self) -> AsyncIterator[Frame | Discontinuity]:
        """The same as :meth:`events`, for asyncio."""
        watched = _Watched()
        try:
            while (item := await self._aitem(watched)) is not None:
                yield item
        finally:
            watched.close()

    def close(self) -> None:
        """Closes the connections and sends the last reports and the last checkpoint; a few seconds at most."""
        self._finish()
        self._source.close()

    async def aclose(self) -> None:
        """The same for asyncio."""
        self._finish()
        await self._until(self._source.close_async)

    @property
    def tracks(self) -> list[Track]:
        """The tracks, in the order that ``Frame.track`` counts; the same over all moves."""
        return self._source.tracks

    @property
    def start(self) -> Start:
        """Where the stream began: live, or after a checkpoint."""
        return self._source.start

    @property
    def counters(self) -> dict[str, int]:
        """Totals: ``frames``, ``handovers``, ``unproven_handovers``, ``lost_packets``, ``duplicates_dropped``,
        ``replayed``."""
        return self._source.counters

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of :func:`mtxfleet.metrics_text` for this stream, such as ``backlog_seconds``."""
        return self._source.metrics

    @property
    def state(self) -> str:
        """``opening``, ``live``, ``moving``, ``reconnecting`` or ``closed``."""
        return self._source.state

    @property
    def leg(self) -> str | None:
        """Id of the connection that delivers now; ``None`` while none does."""
        return self._source.leg

    def __enter__(self) -> Stream:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._given = None
        self.close()

    async def __aenter__(self) -> Stream:
        await self._until(self._source.open_async)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is not None:
            self._given = None
        await self.aclose()

    def __repr__(self) -> str:
        return f"<mtxfleet.Stream {self.name} {self._source.state}>"

    def _item(self, timeout: float | None = None) -> Frame | Discontinuity | None:
        # Who asks for the next frame has finished with the one before.
        self._finish()
        return self._noted(self._source.next(timeout))

    async def _aitem(self, watched: _Watched) -> Frame | Discontinuity | None:
        self._finish()
        item = self._source.take()
        if item is None:
            await watched.until(self._source.ready_async)
            item = self._source.take()
        return self._noted(item)

    async def _until(self, begin: Callable[[Bell], bool]) -> None:
        # A task that closes the stream may wait beside one that reads it: each has a bell of its own.
        watched = _Watched()
        try:
            await watched.until(begin)
        finally:
            watched.close()

    def _noted(self, item: Frame | Discontinuity | None) -> Frame | Discontinuity | None:
        if isinstance(item, Frame):
            if self._automatic:
                self._given = item
        elif item is not None:
            lost = "an unknown number of" if item.lost_packets is None else item.lost_packets
            _log.warning("%s: %s packets are missing before rtp_time %s (%s)", self.name, lost, item.before, item.kind)
            if self.on_discontinuity is not None:
                self.on_discontinuity(item)
        return item

    def _in_pictures(self) -> bool:
        """Pictures, and no longer frames, are what is finished with when the next is asked for; whether they are."""
        automatic, self._automatic = self._automatic, False
        return automatic

    def _finish(self) -> None:
        if self._given is not None:
            self._given.done()
            self._given = None


class _Watched:
    """A bell that the event loop watches all along: beginning to and ending it costs more than a frame does."""

    def __init__(self) -> None:
        self._bell: Bell | None = None
        self._rung: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def until(self, begin: Callable[[Bell], bool]) -> None:
        if self._bell is None:
            self._bell = Bell()
            self._loop.add_reader(self._bell.fileno(), self._settle)
        try:
            if begin(self._bell):
                return
            self._rung = self._loop.create_future()
            await self._rung
        except BaseException:
            # Cancelled, for one: a bell that may still ring is of no use for the next wait.
            self.close()
            raise

    def close(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            self._loop.remove_reader(bell.fileno())

    def _settle(self) -> None:
        if self._bell is None:
            return
        rung = self._rung if self._rung is not None and not self._rung.done() else None
        try:
            # Also when nobody waits: heard, or it would go on ringing.
            over = self._bell.answer()
        except Exception as error:
            if rung is not None:
                rung.set_exception(error)
            return
        if over and rung is not None:
            rung.set_result(None)


def serve_metrics(port: int = 0, host: str = "127.0.0.1") -> int:
    """Answers every HTTP request at ``host:port`` with :func:`mtxfleet.metrics_text`, until the process ends.

    Gives the port, which the system chooses for 0. Raises ``OSError`` when it cannot be had.
    """
    return _serve_metrics(host, port)


def _needed(name: str, given: str | None, example: str) -> str:
    found = given or os.environ.get(f"MTXFLEET_{name.upper()}")
    if not found:
        raise ValueError(f"{name}: give it, or set MTXFLEET_{name.upper()}, for example {example!r}")
    return found
