//! How to come by a courier: systemd's socket where there is one, else a child of our own.

use std::path::PathBuf;
use std::time::Duration;

use super::client::{Client, ClientError};

/// Everything that it takes to start a courier, by value: it goes to other threads.
#[derive(Debug, Clone)]
pub struct Way {
    /// The program that is a courier.
    pub program: PathBuf,
    /// Its agent.toml.
    pub config: PathBuf,
    /// Its cache.
    pub cache: PathBuf,
    /// The socket behind which systemd starts couriers.
    pub socket: PathBuf,
    /// Couriers are started by systemd and by nobody else: the agent's own unit has no network, and its children neither.
    pub only_socket: bool,
    /// As whom a courier runs that is started from here; `None`: as this process itself.
    pub user: Option<(u32, u32)>,
    /// How long one question may take.
    pub patience: Duration,
}

impl Way {
    /// Goes it.
    pub fn open(&self) -> Result<Client, ClientError> {
        if self.only_socket || self.socket.exists() {
            Client::connect(&self.socket, self.patience)
        } else {
            Client::spawn_as(self.user, &self.program, &self.config, &self.cache, self.patience)
        }
    }
}
