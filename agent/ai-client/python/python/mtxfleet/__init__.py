"""Camera streams for AI workers that lose no frame while servers come and go.

    import mtxfleet

    for frame in mtxfleet.Stream("cam1", worker="anpr-1", url="rtsp://live.example:8554", cluster="berlin"):
        detect(frame.data)

Every frame comes once and in order while servers are taken out of service. Where frames are missing (a server crashed,
and no recording has them), the frame after the gap has it in ``frame.gap``, a warning is logged, and
``Stream(on_discontinuity=...)`` and :meth:`Stream.events` tell of it: there is never a silent gap.

With ``checkpoints=True`` a program that is started again goes on after the last frame that it had finished with.

Pictures as numpy arrays: :mod:`mtxfleet.pictures`, with ``pip install mtxfleet[av]``.
"""

from ._native import (
    CheckpointError,
    Discontinuity,
    Frame,
    Gone,
    NotOpened,
    Start,
    StreamError,
    Superseded,
    Track,
    TracksChanged,
    __version__,
    metrics_text,
)
from ._stream import Checkpoints, Stream, serve_metrics

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Discontinuity",
    "Frame",
    "Gone",
    "NotOpened",
    "Start",
    "Stream",
    "StreamError",
    "Superseded",
    "Track",
    "TracksChanged",
    "__version__",
    "metrics_text",
    "serve_metrics",
]
