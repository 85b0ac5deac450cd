//! What the tests share: real repositories made by git, real servers, and the lab's machines.

pub mod git;
pub mod lab;
pub mod server;
