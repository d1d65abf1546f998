//! The transport from outside: every kind of connection, and every kind of peer.

mod hostile;
mod lanes;
mod listening;
mod support;
mod trust;
