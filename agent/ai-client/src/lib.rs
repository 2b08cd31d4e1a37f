//! The AI worker library: a stream of frames that survives planned moves.
