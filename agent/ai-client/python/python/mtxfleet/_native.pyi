from typing import Any, Literal, final

__all__ = [
    "Bell",
    "CheckpointError",
    "Discontinuity",
    "Frame",
    "Gone",
    "NotOpened",
    "Source",
    "Start",
    "StreamError",
    "Superseded",
    "Track",
    "TracksChanged",
    "__version__",
    "metrics_text",
    "serve_metrics",
]

__version__: str

def metrics_text() -> str:
    """Figures of all open streams of this process, in Prometheus's text format 0.0.4."""

def serve_metrics(host: str, port: int) -> int: ...

class StreamError(Exception):
    """A stream could not be opened, or is over."""

class NotOpened(StreamError):
    """The stream did not come within ``open_timeout``."""

class Gone(StreamError):
    """The stream was away for longer than ``give_up_after``."""

class TracksChanged(StreamError):
    """The camera has other tracks or codecs now: set decoders up anew and open the stream again."""

class CheckpointError(StreamError):
    """The worker's checkpoint cannot be read, or written any more. Nothing is begun from nowhere."""

class Superseded(CheckpointError):
    """Another copy of this worker reads the stream since: end this one, or give it a name of its own."""

@final
class Track:
    """One track of a stream."""

    @property
    def media(self) -> str:
        """``video``, ``audio`` or ``application``."""
    @property
    def encoding(self) -> str:
        """Its name in the SDP, in lower case: ``h264``, ``h265``, ``mpeg4-generic``, ..."""
    @property
    def codec(self) -> str:
        """``h264``, ``h265`` or ``other``."""
    @property
    def clock_rate(self) -> int:
        """Ticks of :attr:`Frame.rtp_time` in a second."""
    @property
    def parameter_sets(self) -> bytes:
        """H.264 and H.265: parameter sets in Annex B form; empty when the camera's SDP has none."""
    @property
    def fmtp(self) -> str | None:
        """The SDP's format parameters."""

@final
class Start:
    """Where a stream with checkpoints began."""

    @property
    def kind(self) -> Literal["live", "resumed", "unknown"]:
        """``live``: for the first time, or without checkpoints. ``resumed``: after the last frame finished with.
        ``unknown``: live, since it cannot be known whether there was a checkpoint: Redis is away, and the journal has none.
        """
    @property
    def done(self) -> int:
        """Resumed: frames finished with in earlier lives."""
    @property
    def after(self) -> int | None:
        """Resumed: :attr:`Frame.rtp_time` of the last of them."""
    @property
    def at(self) -> float | None:
        """Resumed: seconds since 1970 when that was taken."""
    @property
    def why(self) -> str | None:
        """Unknown: what is away."""

@final
class Discontinuity:
    """A place where frames are missing, or may be."""

    @property
    def track(self) -> int:
        """Index into ``Stream.tracks``."""
    @property
    def after(self) -> int | None:
        """:attr:`Frame.rtp_time` of the last frame before it."""
    @property
    def before(self) -> int:
        """:attr:`Frame.rtp_time` of the frame that comes next."""
    @property
    def lost_packets(self) -> int | None:
        """Packets missing; ``None`` when the camera's numbering cannot tell."""
    @property
    def kind(self) -> Literal["lost", "unproven_switch"]:
        """``lost``: packets that never came. ``unproven_switch``: frames may be missing or come twice."""

@final
class Frame:
    """One access unit: an encoded picture, or a piece of sound. In decode order."""

    @property
    def track(self) -> int:
        """Index into ``Stream.tracks``."""
    @property
    def codec(self) -> str:
        """``h264``, ``h265`` or ``other``."""
    @property
    def rtp_time(self) -> int:
        """Ticks of the track's clock, on one time line over all moves. With B-frames it runs backwards at times."""
    @property
    def wall(self) -> float | None:
        """Seconds since 1970 when the camera took it; ``None`` until that is known."""
    @property
    def keyframe(self) -> bool:
        """A decoder can start here."""
    @property
    def data(self) -> bytes:
        """H.264 and H.265: NAL units behind start codes (Annex B). Others: the payloads of its packets, joined."""
    @property
    def payloads(self) -> list[bytes]:
        """One ``bytes`` for each RTP packet; of H.264 and H.265 one for the whole frame."""
    @property
    def gap(self) -> Discontinuity | None:
        """Frames that are missing right before this one."""
    @property
    def decode_only(self) -> bool:
        """It was handed over before, and comes again only so that a decoder can be brought to the next frame: decode it,
        and do nothing else with it."""
    @property
    def replayed(self) -> bool:
        """It was taken while, or shortly before, this worker was away: an earlier life may have had it already, if it
        ended after its last checkpoint."""
    @property
    def recorded(self) -> bool:
        """It comes from a recording: ``rtp_time`` is worked out, to a few ticks; the pictures are the camera's."""
    def done(self) -> None:
        """This frame and all before it on its track are finished with: a worker that starts again begins after them.
        Does nothing without checkpoints, and on other tracks than the first video track. Never waits."""
    def __len__(self) -> int:
        """Bytes of ``data``."""

@final
class Bell:
    def __new__(cls) -> Bell: ...
    def fileno(self) -> int: ...
    def answer(self) -> bool: ...

@final
class Source:
    def __new__(cls, options: dict[str, Any]) -> Source: ...
    def open(self) -> None: ...
    def open_async(self, bell: Bell) -> bool: ...
    def next(self, timeout: float | None = None) -> Frame | Discontinuity | None: ...
    def ready_async(self, bell: Bell) -> bool: ...
    def take(self) -> Frame | Discontinuity | None: ...
    def close(self) -> None: ...
    def close_async(self, bell: Bell) -> bool: ...
    @property
    def tracks(self) -> list[Track]: ...
    @property
    def start(self) -> Start: ...
    @property
    def counters(self) -> dict[str, int]: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def state(self) -> Literal["opening", "live", "moving", "reconnecting", "closed"]: ...
    @property
    def leg(self) -> str | None: ...
