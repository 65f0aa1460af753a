//! API nodes that arbitrate: the real machine on links of the test's network.

use bytes::BytesMut;

use lockstep_proto::arbitrator::{ApiArbitrator, ApiArbitratorOptions};
use lockstep_proto::ids::{ClusterId, Incarnation, MgmtId};
use lockstep_proto::process::{Input, LinkId, Outputs, Peer, Process};

use super::{Event, Id, MGMT, Net};

impl Net {
    /// Starts a process of an API node, another than any before.
    pub(crate) fn start_api(&mut self, id: Id) {
        self.lives += 1;
        let options = ApiArbitratorOptions {
            id: MgmtId(id - MGMT),
            cluster: ClusterId(7),
            incarnation: Incarnation(self.lives),
            canary: None,
        };
        self.mgmt_down.remove(&id);
        self.mgmt_out.insert(id, Outputs::with_marks());
        self.apis.insert(id, ApiArbitrator::new(options));
    }

    pub(super) fn api_up(&mut self, id: Id, link: LinkId, peer: Peer) {
        self.api_input(id, Input::LinkUp { link, peer });
    }

    pub(super) fn api_event(&mut self, id: Id, event: Event) {
        if let Event::Frame(_, link, bytes) = event
            && !self.mgmt_down.contains(&id)
        {
            self.api_input(id, Input::Frame { link, bytes: &bytes });
        }
    }

    fn api_input(&mut self, id: Id, input: Input<'_>) {
        let Some((core, out)) = self.apis.get_mut(&id).zip(self.mgmt_out.get_mut(&id)) else {
            return;
        };
        core.handle(self.now, input, out);
        self.marks.extend(out.take_marks());
        let mut sent = Vec::new();
        while let Some(link) = out.pop_dirty() {
            sent.push((link, out.unsent(link).map(BytesMut::split).unwrap_or_default()));
        }
        for (link, mut bytes) in sent {
            while bytes.len() >= 4 {
                let length = u32::from_le_bytes(bytes[..4].try_into().expect("four")) as usize;
                let frame = bytes.split_to(4 + length).split_off(4);
                self.transmit(id, link, &frame);
            }
        }
    }
}
