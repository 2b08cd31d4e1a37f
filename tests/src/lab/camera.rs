//! Cameras: ffmpeg encoding a moving picture live and publishing it over RTSP.

use std::path::Path;

use anyhow::Result;

use super::process::{Process, Recipe};
use super::programs;

/// Frames a second of every camera.
pub const FRAME_RATE: u32 = 25;

/// What a camera sends. Pictures are small: two cores carry the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CameraKind {
    /// H.264, one slice a picture, no B-frames.
    H264,
    /// H.265.
    H265,
    /// H.264 with AAC beside it.
    H264WithAudio,
    /// H.264 with two B-frames between references: decode order differs from display order.
    H264WithBFrames,
    /// H.264 with several slices in each picture.
    H264Slices,
    /// H.264 with Opus beside it.
    H264WithOpus,
    /// H.265 with G.711 (A-law) beside it.
    H265WithG711,
    /// Motion JPEG (RFC 2435) with G.711 (mu-law) beside it.
    Mjpeg,
}

impl CameraKind {
    /// One of each that the demo shows.
    pub const DEMO: [Self; 4] = [Self::H264, Self::H265, Self::H264WithAudio, Self::H264WithBFrames];

    /// In words, for tables.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::H264WithAudio => "H.264 + AAC",
            Self::H264WithBFrames => "H.264, B-frames",
            Self::H264Slices => "H.264, slices",
            Self::H264WithOpus => "H.264 + Opus",
            Self::H265WithG711 => "H.265 + G.711",
            Self::Mjpeg => "MJPEG + G.711",
        }
    }

    fn encoder(self) -> &'static [&'static str] {
        match self {
            Self::H264 | Self::H264WithAudio | Self::H264WithOpus => &[
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-tune",
                "zerolatency",
                "-x264-params",
                "slices=1:scenecut=0",
            ],
            Self::H264Slices => &[
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-tune",
                "zerolatency",
                "-x264-params",
                "slices=4:scenecut=0",
            ],
            Self::H264WithBFrames => &[
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-bf",
                "2",
                "-x264-params",
                "b-adapt=0:rc-lookahead=4:scenecut=0",
            ],
            // RTP has room for the standard's own tables only.
            Self::Mjpeg => &["-c:v", "mjpeg", "-huffman", "default", "-q:v", "8"],
            Self::H265 | Self::H265WithG711 => &[
                "-c:v",
                "libx265",
                "-preset",
                "ultrafast",
                "-tune",
                "zerolatency",
                "-x265-params",
                "log-level=error:pools=1:frame-threads=1:repeat-headers=1:scenecut=0",
            ],
        }
    }

    /// What encodes the sound of those that have it.
    fn sound(self) -> Option<&'static [&'static str]> {
        match self {
            Self::H264WithAudio => Some(&["-c:a", "aac", "-b:a", "64k", "-ac", "1"]),
            Self::H264WithOpus => Some(&["-c:a", "libopus", "-b:a", "64k", "-ac", "2"]),
            Self::H265WithG711 => Some(&["-c:a", "pcm_alaw", "-ar", "8000", "-ac", "1"]),
            Self::Mjpeg => Some(&["-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1"]),
            Self::H264 | Self::H265 | Self::H264WithBFrames | Self::H264Slices => None,
        }
    }
}

/// One camera of a lab.
#[derive(Debug)]
pub struct Camera {
    /// The path it publishes as.
    pub name: String,
    pub kind: CameraKind,
    pub process: Process,
}

impl Camera {
    /// Starts the camera; it publishes to `rtsp://TO/NAME`.
    ///
    /// # Errors
    /// When ffmpeg is not there or cannot be run.
    pub fn start(name: &str, kind: CameraKind, to: &str, log_dir: &Path) -> Result<Self> {
        let ffmpeg = programs::find("ffmpeg")?;
        // A picture that moves everywhere and shows the time, so that hardly two frames are alike; noise makes sure.
        // The filter paces it evenly; with `-re` frames come in pairs.
        let picture = format!("testsrc2=size=320x180:rate={FRAME_RATE},noise=alls=6:allf=t,realtime");
        let mut args: Vec<String> =
            ["-hide_banner", "-loglevel", "warning", "-nostdin", "-f", "lavfi", "-i"].map(str::to_owned).to_vec();
        args.push(picture);
        let more = |args: &mut Vec<String>, these: &[&str]| args.extend(these.iter().map(|arg| (*arg).to_owned()));
        if let Some(encoder) = kind.sound() {
            // Noise, so that hardly two pieces are alike in any codec.
            more(&mut args, &["-f", "lavfi", "-i", "anoisesrc=sample_rate=48000:amplitude=0.3,arealtime"]);
            more(&mut args, encoder);
        }
        let pixels = if kind == CameraKind::Mjpeg { "yuvj420p" } else { "yuv420p" };
        more(&mut args, &["-pix_fmt", pixels, "-threads", "1"]);
        more(&mut args, kind.encoder());
        // A keyframe every 2 s, as cameras do: a reader that starts cold waits for it.
        let gop = (2 * FRAME_RATE).to_string();
        more(&mut args, &["-g", &gop, "-keyint_min", &gop, "-b:v", "300k", "-maxrate", "300k", "-bufsize", "300k"]);
        more(&mut args, &["-f", "rtsp", "-rtsp_transport", "tcp"]);
        args.push(format!("rtsp://{to}/{name}"));
        let process = Recipe::new(format!("camera-{}", name.replace('/', "-")), ffmpeg).args(args).start(log_dir)?;
        Ok(Self { name: name.to_owned(), kind, process })
    }
}
