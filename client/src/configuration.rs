//! Changing the cluster's configuration: asked for at any data node until the view tells what came
//! of it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockstep_proto::configuration::{ConfigChange, ConfigEntry, Setting};
use lockstep_proto::error::Code;
use lockstep_proto::ids::ConfigVersion;
use lockstep_proto::limits::CONFIG_TEXT_BYTES_MAX;
use lockstep_proto::view::View;

use crate::client::Client;
use crate::core::{Call, CallError, Outcome};
use crate::error::{Error, Result};

/// The pause between two looks at the view, and after so many of them the node asked next.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOKS_PER_NODE: u32 = 20;

impl Client {
    /// Changes settings of the cluster while it serves. The change is made for version `base` of
    /// the configuration, which is in [`Client::view`]: if another change has come first, it fails
    /// with [`Code::ConfigOutdated`] and says what that was. `who` and `why` are kept with it.
    ///
    /// Data nodes decide about it; no management server has to be there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Configuration`] if the settings make no sense or another change came
    /// first; [`crate::ErrorKind::Deadline`] if no view had it in time: it may still be made.
    pub async fn configure(
        &self,
        base: ConfigVersion,
        settings: BTreeMap<Setting, u64>,
        who: &str,
        why: &str,
    ) -> Result<ConfigEntry> {
        let draw = || u128::from(RandomState::new().hash_one(std::process::id()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let change = ConfigChange {
            id: draw() << 64 | draw(),
            base,
            who: short(who),
            when_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            why: short(why),
            settings,
        };
        let view = self.view().await?;
        if let Err(unfit) = change.applied_to(&view.config) {
            return Err(Error::new(Code::BadConfiguration, unfit.to_string()));
        }
        let deadline = Instant::now() + self.0.deadline;
        for attempt in 0.. {
            let view = self.view().await?;
            if let Some(done) = outcome(&view, &change) {
                return done;
            }
            let nodes: Vec<_> = view.in_sync().map(|m| m.instance.node).collect();
            if let Some(node) = nodes.get(attempt % nodes.len().max(1)) {
                // Whether it was heard or not, the view tells.
                let ask = Call::Configure { node: *node, change: Box::new(change.clone()) };
                let _heard =
                    tokio::time::timeout(LOOK_EVERY * LOOKS_PER_NODE, self.call(ask)).await;
            }
            for _ in 0..LOOKS_PER_NODE {
                if let Some(done) = outcome(&*self.view().await?, &change) {
                    return done;
                }
                if Instant::now() >= deadline {
                    let waits = "the data nodes have not agreed on a view with it; they may be \
                                 busy with a failure, and it may still be made";
                    let error = CallError::refused(Code::DeadlineExceeded, waits);
                    return Err(CallError { outcome: Outcome::Unknown, ..error }.into());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        unreachable!("attempts end at the deadline")
    }
}

/// What a view says of a change; `None` if it is still to be made.
fn outcome(view: &View, change: &ConfigChange) -> Option<Result<ConfigEntry>> {
    if let Some(entry) = view.configured.entry_of(change.id) {
        return Some(Ok(entry.clone()));
    }
    let version = view.configured.version;
    if change.base == version {
        return None;
    }
    if change.base > version {
        let text = format!("made for version {}, and {} is in force", change.base.0, version.0);
        return Some(Err(Error::new(Code::ConfigOutdated, text)));
    }
    let since = view.configured.history.iter().filter(|entry| entry.version > change.base);
    let told: Vec<String> = since.map(describe).collect();
    Some(Err(Error::new(Code::ConfigOutdated, told.join("; "))))
}

/// An entry of the history in one line.
fn describe(entry: &ConfigEntry) -> String {
    let change = |(setting, from, to): &(Setting, u64, u64)| {
        format!("{} {} → {}", setting.name(), setting.show(*from), setting.show(*to))
    };
    let changes: Vec<String> = entry.changes.iter().map(change).collect();
    let changes = if changes.is_empty() { "nothing".to_owned() } else { changes.join(", ") };
    format!("version {} by {}: {changes}", entry.version.0, entry.who)
}

fn short(text: &str) -> String {
    let mut end = text.len().min(CONFIG_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(short("me"), "me");
        let long = "é".repeat(CONFIG_TEXT_BYTES_MAX);
        assert_eq!(short(&long).len(), CONFIG_TEXT_BYTES_MAX);
        let odd = format!("x{long}");
        assert_eq!(short(&odd).len(), CONFIG_TEXT_BYTES_MAX - 1);
    }
}
