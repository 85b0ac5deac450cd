//! Tests of guards.
