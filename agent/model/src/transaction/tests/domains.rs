//! Tests of domains.
