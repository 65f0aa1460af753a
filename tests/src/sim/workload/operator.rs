//! An operator who wants backups, and now and then thinks better of it: speaks to the management
//! servers as the command line does, and asks what has become of what it wanted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use lockstep_proto::ids::{BackupId, MgmtId};
use lockstep_proto::process::{Effect, Input, LinkId, Outputs, Peer, Process, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord, BackupState};
use lockstep_proto::wire::codec::{decode, frame_cold};
use lockstep_proto::wire::kind;

use super::{Notebook, Phase};
use crate::sim::rng::Rng;

/// Between two questions.
const LOOK: Duration = Duration::from_millis(100);

/// See the module text.
pub struct Operator {
    mgmts: Vec<(MgmtId, String)>,
    rng: Rng,
    notes: Rc<RefCell<Notebook>>,
    link: Option<LinkId>,
    dialling: bool,
    /// Whether it acts on its own, or only when a script says so.
    own: bool,
    next: Instant,
    number: u64,
}

impl Operator {
    /// An operator of these management servers.
    #[must_use]
    pub fn new(
        mgmts: Vec<(MgmtId, String)>,
        rng: Rng,
        notes: Rc<RefCell<Notebook>>,
        own: bool,
    ) -> Self {
        let (link, dialling, next) = (None, false, Instant::default());
        Self { mgmts, rng, notes, link, dialling, own, next, number: 0 }
    }

    fn say(&self, message: &BackupMessage, out: &mut Outputs) {
        if let Some(buffer) = self.link.and_then(|link| out.buffer(link)) {
            frame_cold(buffer, kind::BACKUP, message);
        }
    }

    fn act(&mut self, out: &mut Outputs) {
        if self.notes.borrow().phase != Phase::Work {
            return;
        }
        let wanted = std::mem::take(&mut self.notes.borrow_mut().backups_wanted);
        let again = self.own && self.rng.one_in(8);
        if wanted || again {
            self.number += 1;
            let backup = BackupId(self.number);
            let dir = self.rng.coin().then(|| "/backups".to_owned());
            self.say(&BackupMessage::Create { backup, dir, asked_ms: self.number }, out);
        }
        self.say(&BackupMessage::List, out);
    }

    /// Now and then one is not wanted any more.
    fn on_list(&mut self, list: &[BackupRecord], out: &mut Outputs) {
        if self.notes.borrow().removals_wanted {
            let gone = |state: &BackupState| matches!(state, BackupState::Deleted);
            let left: Vec<BackupId> =
                list.iter().filter(|r| !gone(&r.state)).map(|r| r.backup).collect();
            self.notes.borrow_mut().removals_wanted = !left.is_empty();
            left.into_iter().for_each(|backup| self.say(&BackupMessage::Delete { backup }, out));
        }
        self.number = list.iter().map(|record| record.backup.0).fold(self.number, u64::max);
        if !self.own {
            return;
        }
        for record in list {
            let backup = record.backup;
            match record.state {
                BackupState::Done | BackupState::Failed(_) if self.rng.one_in(40) => {
                    self.say(&BackupMessage::Delete { backup }, out);
                }
                BackupState::Starting | BackupState::Writing if self.rng.one_in(12) => {
                    self.say(&BackupMessage::Abort { backup }, out);
                }
                _ => {}
            }
        }
    }
}

impl Process for Operator {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { link, peer: Peer::Mgmt(_) } => {
                (self.link, self.dialling) = (Some(link), false);
            }
            Input::LinkDown { .. } => self.link = None,
            Input::DialFailed { .. } => self.dialling = false,
            Input::Frame { bytes: [kind::BACKUP, body @ ..], .. } => {
                match decode::<BackupMessage>(body) {
                    Ok(BackupMessage::Backups { list }) => self.on_list(&list, out),
                    Ok(_) => {}
                    Err(_) => self.notes.borrow_mut().complaints.push("not an answer".into()),
                }
            }
            Input::Timeout if self.link.is_some() => self.act(out),
            Input::Timeout if !self.dialling && !self.mgmts.is_empty() => {
                let (id, addr) = self.rng.pick(&self.mgmts).clone();
                self.dialling = true;
                out.effect(Effect::Dial { to: Target::Mgmt(id), addr });
            }
            _ => {}
        }
        if now >= self.next {
            // A script means the moment that it says.
            self.next = now + if self.own { LOOK } else { LOOK / 20 };
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        Some(self.next)
    }
}
