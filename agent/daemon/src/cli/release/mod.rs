//! x
mod preview;
