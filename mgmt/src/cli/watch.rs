//! Looking again and again: a page that is drawn anew on a terminal, and one after the other
//! elsewhere; with `-o json` or `jsonl` one object per line.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::{self, Format, Voice};
use super::{interrupt, stdout_error};

/// Goes to the upper left corner and clears the rest of the screen.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// What one look shows.
pub(super) struct Look {
    pub(super) json: Value,
    pub(super) text: String,
    pub(super) exit: ExitKind,
}

/// Looks until it is interrupted, which is its usual end, or has looked `count` times; the last
/// look gives the exit code. What goes wrong is shown instead of the page, and tried again.
pub(super) async fn repeat(
    voice: &Voice,
    every: Duration,
    count: Option<u64>,
    mut look: impl AsyncFnMut() -> CliResult<Look>,
) -> CliResult<ExitKind> {
    let drawn = voice.format == Format::Table && std::io::stdout().is_terminal();
    let looking = interrupt::or_interrupted(async {
        let mut looks = 0;
        loop {
            let looked = look().await;
            looks += 1;
            let last = count == Some(looks);
            let exit = match (looked, last) {
                (Ok(look), _) => show(voice, drawn, &look).map(|()| look.exit)?,
                (Err(error), true) => return Err(error),
                (Err(error), false) => {
                    tell(voice, drawn, &error)?;
                    error.exit
                }
            };
            if last {
                return Ok(exit);
            }
            tokio::time::sleep(every).await;
        }
    });
    match looking.await {
        Err(error) if error.number == Trouble::Interrupted as u16 => Ok(ExitKind::Done),
        other => other,
    }
}

fn show(voice: &Voice, drawn: bool, look: &Look) -> CliResult {
    let shown = match (voice.format.is_json(), drawn) {
        (true, _) => format!("{}\n", look.json),
        (false, true) => format!("{CLEAR}{}", look.text),
        (false, false) => format!("{}\n", look.text),
    };
    output::print(&shown).map_err(stdout_error)
}

fn tell(voice: &Voice, drawn: bool, error: &CliError) -> CliResult {
    if drawn {
        return output::print(&format!("{CLEAR}{error}\n")).map_err(stdout_error);
    }
    eprint!("{}", error.render(voice.format));
    Ok(())
}
