"""A whole worker: reads one camera, writes its video as it is, and says at the end what it got.

    python worker.py cam1 anpr-1 --url rtsp://live.example:8554 --cluster berlin --out cam1.h264 [--decode] [--asyncio]

Redis, agents and token come from MTXFLEET_REDIS, MTXFLEET_AGENTS and MTXFLEET_WORKER_TOKEN. Ctrl-C ends it.
"""

import argparse
import asyncio
import json
import logging
import sys
from dataclasses import dataclass, field

import mtxfleet


@dataclass
class Seen:
    frames: int = 0
    pictures: int = 0
    shape: list[int] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def frame(self, frame, out):
        self.frames += 1
        if frame.gap is not None:
            self.gaps.append(repr(frame.gap))
        if frame.track == 0:
            out.write(frame.data)
            out.flush()

    def decoded(self, picture):
        self.pictures += 1
        self.shape = list(picture.image.shape)


def read(stream, out, seen, decode):
    decoder = None
    with stream:
        for frame in stream:
            seen.frame(frame, out)
            if decode and frame.track == 0:
                decoder = decoder or decode(frame.codec)
                for picture in decoder.decode(frame):
                    seen.decoded(picture)


async def aread(stream, out, seen, decode):
    decoder = None
    async with stream:
        async for frame in stream:
            seen.frame(frame, out)
            if decode and frame.track == 0:
                decoder = decoder or decode(frame.codec)
                for picture in decoder.decode(frame):
                    seen.decoded(picture)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("stream")
    options.add_argument("worker")
    options.add_argument("--url")
    options.add_argument("--cluster")
    options.add_argument("--out", required=True)
    options.add_argument("--decode", action="store_true", help="pictures as numpy arrays too (needs mtxfleet[av])")
    options.add_argument("--asyncio", action="store_true")
    given = options.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)

    decode = None
    if given.decode:
        from mtxfleet.pictures import Decoder

        decode = Decoder
    seen = Seen()
    stream = mtxfleet.Stream(given.stream, given.worker, url=given.url, cluster=given.cluster)
    with open(given.out, "wb") as out:
        try:
            if given.asyncio:
                asyncio.run(aread(stream, out, seen, decode))
            else:
                read(stream, out, seen, decode)
        except KeyboardInterrupt:
            pass
    print(json.dumps({**vars(seen), "counters": stream.counters}))


if __name__ == "__main__":
    main()
