//! The stand-in, the lab (a whole fleet on one machine) and the end-to-end tests.
