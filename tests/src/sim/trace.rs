//! What a run remembers for people: nothing while it goes well; when a seed is replayed, the last
//! events in words.

use std::collections::VecDeque;
use std::fmt::Write as _;

use lockstep_proto::process::LinkId;
use lockstep_proto::wire::backup::BackupMessage;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::codec::decode;
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::data::Message;
use lockstep_proto::wire::join::JoinMessage;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::shard_control::ShardControl;

use super::host::Item;

/// Events kept for a failure's report.
pub const KEPT: usize = 200;

/// Longest text of one event.
const TEXT_MAX: usize = 600;

/// The memory of a run.
#[derive(Default)]
pub struct Trace {
    /// Whether anything is written at all.
    pub on: bool,
    /// Print as it happens.
    pub print: bool,
    /// The newest lines.
    pub lines: VecDeque<String>,
}

impl Trace {
    /// Writes a line.
    #[inline]
    pub fn note(&mut self, now: u64, text: impl FnOnce() -> String) {
        if self.on {
            self.write(now, text());
        }
    }

    /// Writes an inbox item other than bytes.
    #[inline]
    pub fn item(&mut self, now: u64, name: &str, item: &Item) {
        if self.on {
            self.write(now, format!("{name} <- {item:?}"));
        }
    }

    /// Writes a frame.
    #[inline]
    pub fn frame(&mut self, now: u64, name: &str, link: LinkId, bytes: &[u8]) {
        if self.on {
            self.write(
                now,
                format!("{name} <- {}.{} {}", link.slot, link.generation, words(bytes)),
            );
        }
    }

    fn write(&mut self, now: u64, mut text: String) {
        if text.len() > TEXT_MAX {
            let mut end = TEXT_MAX;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push('…');
        }
        let mut line = String::with_capacity(text.len() + 16);
        write!(line, "{}.{:09} {text}", now / 1_000_000_000, now % 1_000_000_000)
            .expect("strings take everything");
        if self.print {
            eprintln!("{line}");
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// A frame in words.
#[must_use]
pub fn words(frame: &[u8]) -> String {
    let Some((&first, body)) = frame.split_first() else { return "empty frame".into() };
    let text = match first {
        kind::CLIENT => decode::<ClientMessage>(body).map(|message| format!("{message:?}")),
        kind::SHARD_CONTROL => decode::<ShardControl>(body).map(|message| format!("{message:?}")),
        kind::CONTROL => decode::<ControlMessage>(body).map(|message| format!("{message:?}")),
        kind::BACKUP => BackupMessage::parse(body).map(|message| format!("Backup{message:?}")),
        kind::JOIN => JoinMessage::parse(body.get(8..).unwrap_or_default())
            .map(|message| format!("{message:?}")),
        _ => Message::decode(frame).map(|message| format!("{message:?}")),
    };
    text.unwrap_or_else(|error| format!("kind {first}, {} bytes: {error}", body.len()))
}

/// The name of a frame's message: the variant without its fields.
#[must_use]
pub fn message_name(frame: &[u8]) -> String {
    let text = words(frame);
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    text[..end].to_owned()
}
