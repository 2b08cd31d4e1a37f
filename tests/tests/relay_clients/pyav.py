"""Reads a URL with PyAV, as anybody would, and writes the video as it is: pyav.py URL OUT."""

import sys

import av

url, out = sys.argv[1:]
with av.open(url, options={"rtsp_transport": "tcp"}) as container, open(out, "wb") as file:
    for packet in container.demux(container.streams.video[0]):
        file.write(bytes(packet))
        file.flush()
