//! Tests of the transaction: domains, guards, transitions.
