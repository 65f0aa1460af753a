//! Changes the configuration while everybody works, often at the same moment as another client.
//!
//! Each change says in its reason which version it was made for, so that whoever looks at a view
//! can tell whether it was.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_client::core::{Call, Completion, Reply};
use lockstep_proto::configuration::{ConfigChange, Setting};
use lockstep_proto::view::View;

use super::{Next, Notebook, Phase, Scene, Task};

/// All clients that change something do it at multiples of this.
const BEAT_NS: u64 = 300_000_000;
/// How often a change is asked for before it is given up; it may still be made.
const TRIES_MAX: u32 = 40;

/// What may be set, and to what: near the usual, so that the plan of faults stays right.
const CHOICES: &[(Setting, u64, u64)] = &[
    (Setting::Heartbeat, 20, 190),
    (Setting::Suspicion, 400, 450),
    (Setting::Tick, 8, 14),
    (Setting::TransactionIdle, 1_500, 2_000),
    (Setting::CheckpointInterval, 400, 900),
    (Setting::DataMemory, 32 << 20, 128 << 20),
];

/// What a change says of itself.
#[must_use]
pub fn reason(base: u64) -> String {
    format!("made for {base}")
}

/// See the module text.
#[derive(Default)]
pub struct ConfigTask {
    wanted: Option<(Box<ConfigChange>, u32)>,
    looking: bool,
}

impl ConfigTask {
    fn rest(&mut self, scene: &mut Scene<'_>) -> Next {
        self.wanted = None;
        let beats = scene.rng.range(1, 4);
        Next::Sleep(Duration::from_nanos(beats * BEAT_NS - scene.notes.now % BEAT_NS))
    }

    fn draw(view: &View, scene: &mut Scene<'_>) -> Box<ConfigChange> {
        let mut settings = BTreeMap::new();
        for _ in 0..=scene.rng.below(2) {
            let (setting, least, most) = *scene.rng.pick(CHOICES);
            settings.insert(setting, scene.rng.range(least, most));
        }
        let base = view.configured.version;
        Box::new(ConfigChange {
            id: u128::from(scene.rng.next()),
            base,
            who: "simulated".to_owned(),
            when_ms: scene.notes.now / 1_000_000,
            why: reason(base.0),
            settings,
        })
    }

    /// Looks at a view: goes on with the change that is wanted, or draws one.
    fn look(&mut self, view: &View, scene: &mut Scene<'_>) -> Next {
        let (change, tries) = match self.wanted.take() {
            None => (Self::draw(view, scene), 0),
            Some((change, _)) if change.base != view.configured.version => {
                return self.rest(scene);
            }
            Some((_, TRIES_MAX)) => return self.rest(scene),
            Some((change, tries)) => (change, tries + 1),
        };
        self.wanted = Some((change.clone(), tries));
        let members: Vec<_> = view.members.iter().map(|m| m.instance.node).collect();
        Next::Call(Call::Configure { node: *scene.rng.pick(&members), change })
    }
}

impl Task for ConfigTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        match done {
            Some(Ok(Reply::View(view))) if self.looking => {
                self.looking = false;
                self.look(&view, scene)
            }
            Some(_) => Next::Sleep(Duration::from_millis(scene.rng.range(2, 30))),
            None => {
                self.looking = true;
                Next::Call(Call::View)
            }
        }
    }

    fn lost(&mut self, _notes: &mut Notebook) {}
}
