//! A client whose process offers itself as arbitrator, for when all management servers are gone.

use std::hash::{BuildHasher, RandomState};

use lockstep_proto::arbitrator::{ApiArbitrator, ApiArbitratorOptions};
use lockstep_proto::ids::{Incarnation, MgmtId};
use lockstep_proto::view::View;
use lockstep_proto::wire::hello::Speaker;
use lockstep_runtime::{Embedded, EmbeddedOptions};

/// The arbitrator of a client, as long as it is kept.
pub(crate) struct Arbitrating {
    core: Embedded<ApiArbitrator>,
}

impl Arbitrating {
    /// Offers this process to the members of a view, and to whoever comes later.
    pub(crate) fn begin(name: &str, view: &View, embedded: &EmbeddedOptions) -> Self {
        let drawn = RandomState::new().hash_one(std::process::id());
        let number = u16::try_from(drawn & u64::from(MgmtId::API_MIN - 1)).unwrap_or_default();
        let id = MgmtId(MgmtId::API_MIN | number);
        let incarnation = Incarnation(u32::try_from(drawn >> 32).unwrap_or_default());
        let nodes = view.members.iter().map(|m| (m.instance.node, m.addr.clone())).collect();
        let (name, cluster) = (name.to_owned(), view.cluster);
        let core = ApiArbitrator::new(ApiArbitratorOptions {
            id,
            cluster,
            incarnation,
            name,
            nodes,
            canary: None,
        });
        let options = EmbeddedOptions { cluster: Some(cluster), ..embedded.clone() };
        Self { core: Embedded::spawn_as(core, options, Speaker::Mgmt(id)) }
    }

    /// Whether the view names it.
    pub(crate) fn is_named(&self) -> bool {
        self.core.look(|core| core.is_named())
    }
}
