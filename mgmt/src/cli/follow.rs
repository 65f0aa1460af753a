//! What a command shows while it waits: one line that changes on a terminal, lines now and then
//! elsewhere. On stderr, and nothing with `--quiet`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Voice;

/// At most this often where no line can change.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// What is waited for, as it was told last.
pub(super) struct Follow {
    voice: Voice,
    line: Option<ProgressBar>,
    told: String,
    told_at: Instant,
}

impl Follow {
    /// Nothing is shown before the first look.
    pub(super) fn new(voice: Voice) -> Self {
        let moving = voice.color && !voice.quiet && std::io::stderr().is_terminal();
        let line = moving.then(|| {
            let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
                line.set_style(style);
            }
            line
        });
        Self { voice, line, told: String::new(), told_at: Instant::now() }
    }

    /// What is missing now. The first comes after a moment, so that what is quick says nothing.
    pub(super) fn tell(&mut self, text: &str) {
        match &self.line {
            Some(line) => {
                line.set_message(text.to_owned());
                line.tick();
            }
            None if self.told_at.elapsed() >= PLAIN_EVERY && self.told != text => {
                self.told_at = Instant::now();
                text.clone_into(&mut self.told);
                self.voice.say(text);
            }
            None => {}
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}
