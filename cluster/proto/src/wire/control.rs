//! What control cores, management servers and arbitrators say to each other.

use serde::{Deserialize, Serialize};

/// Messages between control cores, and between them and management servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlMessage {
    /// Placeholder until the agreement lands.
    Nothing,
}
