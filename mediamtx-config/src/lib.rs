//! Typed settings rendered to mediamtx.yml and haproxy.cfg.
