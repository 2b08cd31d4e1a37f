//! Every figure of the design, with its peer beside it.
