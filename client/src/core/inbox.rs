//! Frames from servers, each handed to the kind of call it answers.
//!
//! Invariant: an answer that no pending message of the call asked for changes nothing; bytes that
//! are not the protocol end their link, and the calls on it go elsewhere.

use lockstep_proto::process::LogLevel;
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::codec::decode;

use super::*;

impl ClientCore {
    pub(super) fn on_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        if !self.topology.on_heard(now, link) {
            return;
        }
        let read = match bytes.first() {
            Some(&kind::CLIENT) => decode(&bytes[1..])
                .and_then(|message| self.on_client_message(now, link, message, out)),
            _ => Message::decode(bytes).and_then(|m| self.on_message(now, link, &m, out)),
        };
        if let Err(error) = read {
            let text = format!("a server sent what is not the protocol: {error}");
            out.log(LogLevel::Warn, text);
            let why = "a malformed frame";
            if self.topology.cut(now, link, why, out, &mut self.timers) {
                self.on_link_lost(now, link, out);
            }
        }
    }

    fn on_client_message(
        &mut self,
        now: Instant,
        link: LinkId,
        message: ClientMessage,
        out: &mut Outputs,
    ) -> Result<(), WireError> {
        match message {
            ClientMessage::View { view } => {
                let (generation, seal) = (view.restart_generation, view.seal);
                let known = self.topology.view().map(|known| known.restart_generation);
                let Some(lost) = self.topology.on_view(now, link, view, out) else {
                    return Ok(());
                };
                if known.is_some_and(|known| known < generation) {
                    // The cluster came back from its disks: its clock may be behind this client's.
                    out.mark("client_clock_set_back");
                    self.epoch = seal;
                }
                out.mark("client_view_followed");
                for link in lost {
                    self.on_link_lost(now, link, out);
                }
                self.topology.dial(now, out, &mut self.timers);
                self.kick(now, Kick::View, out);
            }
            ClientMessage::SessionsOpened { first, count, epoch, .. } => {
                self.see_epoch(epoch);
                self.sessions_asked = None;
                self.sessions.on_opened(first, count);
                self.kick(now, Kick::Sessions, out);
            }
            ClientMessage::Status { request, status } => {
                self.see_epoch(status.epoch);
                self.on_status(request, status);
            }
            ClientMessage::SnapshotOpened { request, closed, epoch } => {
                self.see_epoch(epoch);
                self.on_snapshot(request, closed, epoch);
            }
            ClientMessage::WatchView
            | ClientMessage::OpenSnapshot { .. }
            | ClientMessage::OpenSessions { .. }
            | ClientMessage::GetStatus { .. }
            | ClientMessage::Configure { .. }
            | ClientMessage::GetEvents { .. }
            | ClientMessage::Events { .. }
            | ClientMessage::Leave { .. }
            | ClientMessage::Order { .. } => return Err(WireError::BadValue),
        }
        Ok(())
    }

    fn on_message(
        &mut self,
        now: Instant,
        link: LinkId,
        message: &Message<'_>,
        out: &mut Outputs,
    ) -> Result<(), WireError> {
        match *message {
            Message::Answer { request, epoch, order, results } => {
                self.see_epoch(epoch);
                let key = key_of(request);
                match self.calls.find(key).map(|pending| &pending.work) {
                    Some(Work::Batch(_)) => self.on_batch_answer(request, results),
                    Some(Work::Lookup(_)) => self.on_rows(request, results),
                    Some(Work::Step(_)) => self.on_step_answer(request, order, results),
                    Some(Work::Gathering(_) | Work::Begin(_) | Work::View) | None => Ok(()),
                }
            }
            Message::Refused { request, code, op, epoch, order, detail } => {
                self.see_epoch(epoch);
                let refusal = CallError {
                    op: (op != u16::MAX).then_some(op),
                    order,
                    ..CallError::refused(code, String::from_utf8_lossy(detail))
                };
                self.on_refused(now, link, request, refusal, out);
                Ok(())
            }
            Message::Page { request, more, rows } => {
                self.on_page(request, more, rows);
                Ok(())
            }
            Message::Swept { request, next, rows } => {
                self.on_swept(request, next, rows);
                Ok(())
            }
            Message::OutcomeIs { request, outcome } => {
                self.on_outcome(now, request, outcome, out);
                Ok(())
            }
            _ => Err(WireError::BadValue),
        }
    }

    fn on_refused(
        &mut self,
        now: Instant,
        link: LinkId,
        request: u64,
        refusal: CallError,
        out: &mut Outputs,
    ) {
        match self.calls.find(key_of(request)).map(|pending| &pending.work) {
            Some(Work::Batch(_)) => self.on_batch_refused(now, request, refusal, out),
            Some(Work::Lookup(_)) => self.on_lookup_refused(now, link, request, refusal, out),
            Some(Work::Step(_)) => self.on_step_refused(now, request, refusal, out),
            Some(Work::Gathering(_) | Work::Begin(_) | Work::View) | None => {}
        }
    }
}
