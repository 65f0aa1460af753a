//! What the application may choose about a client.

use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::limits::TX_EXPIRY_EPOCHS;

/// Options of a [`super::ClientCore`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// First contacts, `host:port` each: management servers or data nodes, any of them will do.
    pub addresses: Vec<String>,
    /// The availability zone this process is in; empty if none.
    pub zone: String,
    /// The host this process is on, as it is written in the nodes' addresses; empty if unknown.
    pub host: String,
    /// How long a call may take, retries included.
    pub deadline: Duration,
    /// Silence on a connection that owes an answer after which it is given up.
    pub unreachable_after: Duration,
    /// Start of the jitter; clients that share one back off together.
    pub seed: u64,
    /// How many epochs a transaction id lives: longer than any transaction may take.
    pub expiry_epochs: u64,
    /// The name under which this process offers itself as arbitrator; `None` if it does not.
    pub arbitrator: Option<String>,
    /// A known bug to switch on, for the simulator only.
    pub canary: Option<Canary>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            zone: String::new(),
            host: String::new(),
            deadline: Duration::from_secs(10),
            unreachable_after: Duration::from_secs(2),
            seed: 1,
            expiry_epochs: TX_EXPIRY_EPOCHS,
            arbitrator: None,
            canary: None,
        }
    }
}
