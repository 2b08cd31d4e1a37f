//! The drain: five phases that take a node out of service, as a pure machine.
