//! The stitch: one stream out of several legs, every frame once, in order, none missing. Pure.
