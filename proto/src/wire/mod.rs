//! What peers say to each other.
mod frame;
pub use frame::{Frame, FrameDecoder, FrameError, FrameLimits, HEADER_LEN, Payload};
