//! MediaMTX: its API, sampled; sessions disconnected; streams kept warm.
