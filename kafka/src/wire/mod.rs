//! Bytes to requests, answers to bytes.

mod answer;
mod fetch_answer;
mod request;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
mod shape;
mod shapes;
pub(crate) mod versions;

pub(crate) use answer::{Answer, Pieces, answer};
pub(crate) use fetch_answer::{FetchAnswer, FetchedPartition, FetchedTopic, encode as encode_fetch};
pub(crate) use request::{Header, Refusal, Request, parse};

#[cfg(test)]
mod tests;
