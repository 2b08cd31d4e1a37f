"""A whole worker: reads one camera, keeps what it found in SQLite, and goes on where it was when it is started again.

    python worker.py cam1 anpr-1 --database seen.db --url rtsp://live.example:8554 --cluster berlin

Redis, agents and token come from MTXFLEET_REDIS, MTXFLEET_AGENTS and MTXFLEET_WORKER_TOKEN. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import sqlite3
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mtxfleet
from mtxfleet import Checkpoints, Discontinuity, Frame, Stream

if TYPE_CHECKING:
    from mtxfleet.pictures import Decoder

TABLES = """
    create table if not exists frames
        (id integer primary key, digest blob, wall real, keyframe int, recorded int, data blob, brightness real);
    create index if not exists by_digest on frames (digest);
    create table if not exists gaps (track int, after_time int, before_time int, lost_packets int, kind text);
"""


class Store:
    """What was seen: one row for each frame, however often it comes."""

    def __init__(self, path: str, keep_video: bool) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("pragma journal_mode = wal")
        # Holds over a kill. Waiting for the disk at each frame would make a busy machine fall behind its camera.
        self.database.execute("pragma synchronous = normal")
        self.database.executescript(TABLES)
        self.keep_video = keep_video

    def frame(self, frame: Frame) -> None:
        digest = hashlib.blake2b(frame.data, digest_size=16).digest()
        # An earlier life may have got so far, but not to its next checkpoint.
        if frame.replayed and self.database.execute("select 1 from frames where digest = ?", [digest]).fetchone():
            return
        row = (digest, frame.wall, frame.keyframe, frame.recorded, frame.data if self.keep_video else None)
        self.database.execute("insert into frames values (null, ?, ?, ?, ?, ?, null)", row)

    def brightness(self, frame: Frame, value: float) -> None:
        digest = hashlib.blake2b(frame.data, digest_size=16).digest()
        self.database.execute("update frames set brightness = ? where digest = ?", [value, digest])

    def gap(self, gap: Discontinuity) -> None:
        row = (gap.track, gap.after, gap.before, gap.lost_packets, gap.kind)
        self.database.execute("insert into gaps values (?, ?, ?, ?, ?)", row)


@dataclass
class Worker:
    store: Store
    decode: bool
    frames: int = 0
    pictures: int = 0
    shape: list[int] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    made: Decoder | None = None

    def take(self, item: Frame | Discontinuity) -> None:
        if isinstance(item, Discontinuity):
            self.gaps.append(repr(item))
            self.store.gap(item)
        elif item.track == 0:
            self.take_video(item)

    def take_video(self, frame: Frame) -> None:
        # Those for decoding only were stored by an earlier life.
        if not frame.decode_only:
            self.frames += 1
            self.store.frame(frame)
        if not self.decode:
            frame.done()
            return
        for picture in self.decoder(frame).decode(frame):
            self.pictures += 1
            self.shape = list(picture.image.shape)
            self.store.brightness(picture.frame, float(picture.image.mean()))
            # Only now: a picture may come several frames after its frame.
            picture.done()

    def decoder(self, frame: Frame) -> Decoder:
        if self.made is None:
            # Needs mtxfleet[av], so only where it is asked for.
            from mtxfleet.pictures import Decoder

            self.made = Decoder(frame.codec, checkpoints=True)
        return self.made


def read(stream: Stream, worker: Worker) -> None:
    with stream:
        for item in stream.events():
            worker.take(item)


async def aread(stream: Stream, worker: Worker) -> None:
    async with stream:
        async for item in stream.aevents():
            worker.take(item)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("stream")
    options.add_argument("worker")
    options.add_argument("--url")
    options.add_argument("--cluster")
    options.add_argument("--database", required=True)
    options.add_argument("--keep-video", action="store_true", help="the frames themselves too")
    options.add_argument("--decode", action="store_true", help="the brightness of each picture (needs mtxfleet[av])")
    options.add_argument("--asyncio", action="store_true")
    options.add_argument("--redundancy", type=int, default=1)
    options.add_argument("--metrics", type=int, help="port for Prometheus")
    given = options.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if given.metrics is not None:
        print("metrics at port", mtxfleet.serve_metrics(given.metrics), flush=True)

    worker = Worker(Store(given.database, given.keep_video), given.decode)
    stream = Stream(
        given.stream,
        given.worker,
        url=given.url,
        cluster=given.cluster,
        checkpoints=Checkpoints(explicit=True, every_frames=10, every=0.5),
        redundancy=given.redundancy,
    )
    try:
        stream.open()
        print("start", stream.start.kind, flush=True)
        if given.asyncio:
            asyncio.run(aread(stream, worker))
        else:
            read(stream, worker)
    except KeyboardInterrupt:
        pass
    seen = {key: getattr(worker, key) for key in ("frames", "pictures", "shape", "gaps")}
    counters = {} if stream.state == "opening" else stream.counters
    print(json.dumps({**seen, "counters": counters}))


if __name__ == "__main__":
    main()
