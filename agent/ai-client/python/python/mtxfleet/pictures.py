"""Decoded pictures, with ``pip install mtxfleet[av]``.

    from mtxfleet import Stream
    from mtxfleet.pictures import pictures

    for picture in pictures(Stream("cam1", worker="anpr-1")):
        detect(picture.image)           # numpy, height x width x 3, BGR as OpenCV has it
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

try:
    import av
    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray
except ImportError as _error:  # pragma: no cover
    raise ImportError("decoding needs PyAV and numpy: pip install 'mtxfleet[av]'") from _error

from ._native import Frame, TracksChanged
from ._stream import Stream

_CODECS = {"h264": "h264", "h265": "hevc"}

#: Frames that a decoder may hold back, B-frames and threads counted; older ones will give no picture any more.
_HELD_BACK = 64

#: Pictures that a program may be busy with before it says :meth:`Picture.done`; older ones it cannot finish any more.
_OPEN = 1024


@dataclass(slots=True)
class _Fed:
    """A frame that went into the decoder, and what became of it."""

    frame: Frame
    #: Its picture's place in the order in which pictures were given; 0 for none that will be.
    shown: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture and the frame that it came in."""

    #: Height x width x 3 (or height x width for ``gray``), 8 bits each.
    image: NDArray[Any]
    frame: Frame
    _decoder: Decoder = field(repr=False, compare=False)
    _shown: int = field(repr=False, compare=False)

    def done(self) -> None:
        """This picture and all that were given before it are finished with: for streams with ``Checkpoints(explicit=True)``.

        Not the same as ``picture.frame.done()``, where there are B-frames: frames come in another order than pictures,
        and the one before in that order may not have been shown yet.
        """
        self._decoder._finished(self._shown)


class Decoder:
    """Encoded frames in, pictures out, in the order in which they are shown.

    ``format`` is a pixel format of FFmpeg that numpy can hold: ``bgr24``, ``rgb24``, ``gray``. The decoder is kept over all
    moves. After a gap, frames are not shown until the next keyframe: what a decoder makes of a damaged reference is no
    picture of anything. Frames that are for decoding only (``frame.decode_only``) are decoded and not shown.

    ``checkpoints``: :meth:`Picture.done` is going to be called.
    """

    def __init__(self, codec: str, format: str = "bgr24", checkpoints: bool = False) -> None:
        if codec not in _CODECS:
            raise ValueError(f"{codec} is no video that can be decoded here: h264 or h265")
        self._codec = _CODECS[codec]
        self._format = format
        self._waits_for_keyframe = True
        #: Frames in the decoder, by the number that they were given.
        self._held: dict[int, _Fed] = {}
        #: All that are not finished with, in the order in which they came.
        self._open: deque[_Fed] | None = deque(maxlen=_OPEN) if checkpoints else None
        self._fed = 0
        self._shown = 0
        self._context = self._fresh()

    def _fresh(self) -> VideoCodecContext:
        context = cast(VideoCodecContext, av.CodecContext.create(self._codec, "r"))
        # A thread for each frame would hold back as many pictures.
        context.thread_type = "SLICE"
        self._drop(0)
        return context

    def decode(self, frame: Frame) -> Iterator[Picture]:
        """The pictures that are complete with this frame: none, one, or several."""
        if frame.gap is not None:
            yield from self.flush()
            self._context = self._fresh()
            self._waits_for_keyframe = True
        fed = _Fed(frame)
        if self._open is not None:
            self._open.append(fed)
        if self._waits_for_keyframe and not frame.keyframe:
            fed.shown = 0
            return
        self._waits_for_keyframe = False
        # The decoder hands a packet's time on to its picture; a number of our own cannot come twice.
        self._fed += 1
        packet = av.Packet(frame.data)
        packet.pts = self._fed
        self._held[self._fed] = fed
        self._drop(_HELD_BACK)
        yield from self._pictures(packet)

    def flush(self) -> Iterator[Picture]:
        """What the decoder still holds back; for the end of a stream."""
        yield from self._pictures(None)

    def _pictures(self, packet: Any) -> Iterator[Picture]:
        try:
            decoded = self._context.decode(packet)
        except av.error.InvalidDataError:
            # Damaged by the camera itself: nothing to show until the next keyframe.
            self._waits_for_keyframe = True
            self._drop(0)
            return
        except EOFError:
            return
        for picture in decoded:
            fed = self._held.pop(picture.pts or 0, None)
            if fed is None:
                continue
            if fed.frame.decode_only:
                fed.shown = 0
                continue
            self._shown += 1
            fed.shown = self._shown
            yield Picture(picture.to_ndarray(format=self._format), fed.frame, self, self._shown)

    def _drop(self, keep: int) -> None:
        while len(self._held) > keep:
            self._held.pop(next(iter(self._held))).shown = 0

    def _finished(self, shown: int) -> None:
        # Up to the first frame whose picture has not been shown, or not been finished with.
        last = None
        while self._open and (place := self._open[0].shown) is not None and place <= shown:
            frame = self._open.popleft().frame
            # Those for decoding only were finished with in an earlier life.
            last = last if frame.decode_only else frame
        if last is not None:
            last.done()


def pictures(stream: Stream, format: str = "bgr24", track: int | None = None) -> Iterator[Picture]:
    """Decoded pictures of a stream's first video track, or of ``track``.

    With ``Stream(checkpoints=True)`` a picture is finished with when the next one is asked for; with
    ``Checkpoints(explicit=True)`` when :meth:`Picture.done` is called.

    The wheel's own work holds no GIL, and PyAV releases it while it decodes, so that several streams in threads run side
    by side. Raises what iterating over the stream raises.
    """
    automatic = stream._in_pictures()
    with stream:
        wanted = _video(stream, track)
        decoder = Decoder(stream.tracks[wanted].codec, format, stream._checkpoints)
        for frame in stream:
            if frame.track == wanted:
                for picture in decoder.decode(frame):
                    yield picture
                    if automatic:
                        picture.done()


async def apictures(stream: Stream, format: str = "bgr24", track: int | None = None) -> AsyncIterator[Picture]:
    """The same for asyncio; decoding runs in the event loop's thread."""
    automatic = stream._in_pictures()
    async with stream:
        wanted = _video(stream, track)
        decoder = Decoder(stream.tracks[wanted].codec, format, stream._checkpoints)
        async for frame in stream:
            if frame.track == wanted:
                for picture in decoder.decode(frame):
                    yield picture
                    if automatic:
                        picture.done()


def _video(stream: Stream, track: int | None) -> int:
    for index, found in enumerate(stream.tracks):
        if track in (None, index) and found.codec in _CODECS:
            return index
    raise TracksChanged(f"{stream.name} has no H.264 or H.265 {'' if track is None else f'in track {track}'}")
