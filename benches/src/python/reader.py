"""The reader of the bench `python`: what a frame costs, in microseconds."""

import asyncio
import json
import sys
import time

import mtxfleet


class Clock:
    def __init__(self, first, count):
        self.first, self.last, self.seen = first, first + count, 0

    def tick(self):
        """Whether it is over."""
        self.seen += 1
        if self.seen == self.first:
            self.begun = time.perf_counter(), time.process_time()
        if self.seen == self.last:
            wall, cpu = time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]
            frames = self.last - self.first
            print(json.dumps({"cpu_us": cpu * 1e6 / frames, "wall_us": wall * 1e6 / frames}))
            return True
        return False


def read(stream, clock):
    size = times = 0
    for frame in stream:
        size += len(frame.data)
        times ^= frame.rtp_time
        if clock.tick():
            return


async def aread(stream, clock):
    size = times = 0
    async for frame in stream:
        size += len(frame.data)
        times ^= frame.rtp_time
        if clock.tick():
            return


way, url, first, count = sys.argv[1:]
stream = mtxfleet.Stream("cam1", worker="python", url=url, cluster="bench")
clock = Clock(int(first), int(count))
if way == "asyncio":
    asyncio.run(aread(stream, clock))
else:
    read(stream, clock)
