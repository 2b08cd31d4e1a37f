//! The RTSP responder that tells MediaMTX where a stream lives.
