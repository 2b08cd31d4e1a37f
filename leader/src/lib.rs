//! The fleet as one node sees it. Pure.
