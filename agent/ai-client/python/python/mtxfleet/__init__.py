"""Camera streams for AI workers that lose no frame while servers come and go.

    import mtxfleet

    for frame in mtxfleet.Stream("cam1", worker="anpr-1", url="rtsp://live.example:8554", cluster="berlin"):
        detect(frame.data)

Every frame comes once and in order while servers are taken out of service. Where frames are missing (a server crashed),
the frame after the gap has it in ``frame.gap``, and a warning is logged: there is never a silent gap.

Pictures as numpy arrays: :mod:`mtxfleet.pictures`, with ``pip install mtxfleet[av]``.
"""

from ._native import (
    Discontinuity,
    Frame,
    Gone,
    NotOpened,
    StreamError,
    Track,
    TracksChanged,
    __version__,
)
from ._stream import Stream

__all__ = [
    "Discontinuity",
    "Frame",
    "Gone",
    "NotOpened",
    "Stream",
    "StreamError",
    "Track",
    "TracksChanged",
    "__version__",
]
