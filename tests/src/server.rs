//! A real git server over HTTP and HTTPS. (to come)
