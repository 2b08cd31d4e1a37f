"""Decoded pictures, with ``pip install mtxfleet[av]``.

    from mtxfleet import Stream
    from mtxfleet.pictures import pictures

    for picture in pictures(Stream("cam1", worker="anpr-1")):
        detect(picture.image)           # numpy, height x width x 3, BGR as OpenCV has it
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

try:
    import av
    import numpy
except ImportError as error:  # pragma: no cover
    raise ImportError("decoding needs PyAV and numpy: pip install 'mtxfleet[av]'") from error

from ._native import Frame, TracksChanged
from ._stream import Stream

_CODECS = {"h264": "h264", "h265": "hevc"}

#: Frames that a decoder may hold back, B-frames and threads counted; older ones will give no picture any more.
_HELD_BACK = 256


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture and the frame that it came in."""

    #: Height x width x 3 (or height x width for ``gray``), 8 bits each.
    image: numpy.ndarray
    frame: Frame


class Decoder:
    """Encoded frames in, pictures out, in the order in which they are shown.

    ``format`` is a pixel format of FFmpeg that numpy can hold: ``bgr24``, ``rgb24``, ``gray``. After a gap, frames are not
    shown until the next keyframe: what a decoder makes of a damaged reference is no picture of anything.
    """

    def __init__(self, codec: str, format: str = "bgr24") -> None:
        if codec not in _CODECS:
            raise ValueError(f"{codec} is no video that can be decoded here: h264 or h265")
        self._codec = _CODECS[codec]
        self._format = format
        self._waits_for_keyframe = True
        self._frames: dict[int, Frame] = {}
        self._context = self._fresh()

    def _fresh(self) -> av.CodecContext:
        context = av.CodecContext.create(self._codec, "r")
        # A thread for each frame would hold back as many pictures.
        context.thread_type = "SLICE"
        self._frames.clear()
        return context

    def decode(self, frame: Frame) -> Iterator[Picture]:
        """The pictures that are complete with this frame: none, one, or several."""
        if frame.gap is not None:
            yield from self.flush()
            self._context = self._fresh()
            self._waits_for_keyframe = True
        if self._waits_for_keyframe and not frame.keyframe:
            return
        self._waits_for_keyframe = False
        packet = av.Packet(frame.data)
        packet.pts = frame.rtp_time
        self._frames[frame.rtp_time] = frame
        while len(self._frames) > _HELD_BACK:
            del self._frames[next(iter(self._frames))]
        yield from self._shown(packet)

    def flush(self) -> Iterator[Picture]:
        """What the decoder still holds back; for the end of a stream."""
        yield from self._shown(None)

    def _shown(self, packet: av.Packet | None) -> Iterator[Picture]:
        try:
            decoded = self._context.decode(packet)
        except av.error.InvalidDataError:
            # Damaged by the camera itself: nothing to show until the next keyframe.
            self._waits_for_keyframe = True
            return
        except EOFError:
            return
        for picture in decoded:
            frame = self._frames.pop(picture.pts, None)
            if frame is not None:
                yield Picture(picture.to_ndarray(format=self._format), frame)


def pictures(stream: Stream, format: str = "bgr24", track: int | None = None) -> Iterator[Picture]:
    """Decoded pictures of a stream's first video track, or of ``track``.

    The wheel's own work holds no GIL, and PyAV releases it while it decodes, so that several streams in threads run side
    by side. Raises what iterating over the stream raises.
    """
    decoder = None
    with stream:
        wanted = _video(stream, track)
        decoder = Decoder(stream.tracks[wanted].codec, format)
        for frame in stream:
            if frame.track == wanted:
                yield from decoder.decode(frame)


async def apictures(stream: Stream, format: str = "bgr24", track: int | None = None) -> AsyncIterator[Picture]:
    """The same for asyncio; decoding runs in the event loop's thread."""
    async with stream:
        wanted = _video(stream, track)
        decoder = Decoder(stream.tracks[wanted].codec, format)
        async for frame in stream:
            if frame.track == wanted:
                for picture in decoder.decode(frame):
                    yield picture


def _video(stream: Stream, track: int | None) -> int:
    for index, found in enumerate(stream.tracks):
        if track in (None, index) and found.codec in _CODECS:
            return index
    raise TracksChanged(f"{stream.name} has no H.264 or H.265 {'' if track is None else f'in track {track}'}")
