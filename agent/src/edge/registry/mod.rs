//! The registry in Redis: projection, admission, events, worker reports.
