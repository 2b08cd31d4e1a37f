//! A small stand-in for MediaMTX.
