//! Gossip by chitchat over a sealed transport.
