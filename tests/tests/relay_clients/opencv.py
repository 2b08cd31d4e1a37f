"""Reads a URL or a file with OpenCV, as anybody would, and writes a hash of each picture: opencv.py SOURCE OUT."""

import hashlib
import os
import sys

os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
import cv2  # noqa: E402: it reads the variable when it is imported

source, out = sys.argv[1:]
capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
assert capture.isOpened(), f"OpenCV cannot open {source}"
with open(out, "w") as file:
    while True:
        read, picture = capture.read()
        if not read:
            break
        file.write(hashlib.sha256(picture.tobytes()).hexdigest()[:16] + "\n")
        file.flush()
