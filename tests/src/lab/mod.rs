//! Disposable machines with a real systemd. (to come)
