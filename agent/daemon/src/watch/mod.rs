//! What tells of a change at once: the kernel's file events, systemd's signals, and who it was where they tell.
