//! The status document as HTTP, metrics and a page, for who asks on this host.
