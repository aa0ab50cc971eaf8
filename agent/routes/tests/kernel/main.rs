//! Routes, masquerading and interfaces in the running kernel, each test in a network namespace of its own that has no name.
//!
//! Needs root, `ip` and `nft`; only tests use these two.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod interfaces;
mod masquerade;
mod place;
mod routes;
