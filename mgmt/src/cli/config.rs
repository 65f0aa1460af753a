//! `lockstep config`: the settings of the running cluster, their history, and changes of them.
//!
//! Invariant: a change is made for the version that its author has seen; if another one came first,
//! nothing is changed and the author is told what was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lockstep_client::Client;
use lockstep_proto::configuration::{ConfigChange, ConfigEntry, Setting};
use lockstep_proto::ids::ConfigVersion;
use lockstep_proto::view::{ClusterConfig, View};
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::{Voice, moment, table};
use super::{Global, block_on, connect, stdout_error};
use crate::config::cluster::{check_file, read_file, read_pair};
use crate::run::config_error;

const APPLY_EXAMPLES: &str = "\
Examples:
  lockstep config apply --set suspicion=800ms --set tick=20ms --why 'slow network'
  lockstep config diff cluster.toml && lockstep config apply cluster.toml
  lockstep config apply cluster.toml --if-version 4
  lockstep config rollback 3";

/// Arguments of `lockstep config`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum ConfigCommand {
    /// The settings in force
    Show(ShowArgs),
    /// What a file would change; exit code 8 if it would
    Diff(FileArgs),
    /// Whether the file of a management server, or a part of it, makes sense, without a cluster
    Check(FileArgs),
    /// Change settings of the running cluster
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(ApplyArgs),
    /// The last changes: who, when, what
    History,
    /// Make the settings what they were at an earlier version; that is a new version
    Rollback(RollbackArgs),
}

/// Arguments of `lockstep config show`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ShowArgs {
    /// Also who set each of them, and when
    #[arg(long)]
    origin: bool,
}

/// A file of settings.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct FileArgs {
    /// TOML with a section `cluster`
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `lockstep config apply`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ApplyArgs {
    /// TOML with a section `cluster`
    #[arg(value_name = "FILE", required_unless_present = "set")]
    file: Option<PathBuf>,
    /// One setting; wins over the file
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_pair)]
    set: Vec<(Setting, u64)>,
    /// Only if this version is in force [default: the one that is when the command starts]
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    #[command(flatten)]
    author: Author,
}

/// Arguments of `lockstep config rollback`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RollbackArgs {
    /// The version, as `lockstep config history` shows it; 0 is the creation of the cluster
    #[arg(value_name = "VERSION")]
    version: u64,
    #[command(flatten)]
    author: Author,
}

/// Who changes something, and why: kept with the change.
#[derive(clap::Args, Clone, Debug)]
struct Author {
    /// Who changes it [default: the user of this machine]
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
}

impl Author {
    fn who(&self) -> String {
        let user = || std::env::var("USER").ok().filter(|user| !user.is_empty());
        self.who.clone().or_else(user).unwrap_or_else(|| "somebody".to_owned())
    }
}

pub(super) fn run(global: &Global, command: &ConfigCommand) -> CliResult<ExitKind> {
    let voice = global.voice();
    if let ConfigCommand::Check(args) = command {
        return check(&voice, &args.file);
    }
    block_on(async {
        let client = connect::client(global).await?;
        let view = connect::newest_view(&client).await?;
        match command {
            ConfigCommand::Show(args) => show(&voice, &view, args.origin),
            ConfigCommand::Diff(args) => diff(&voice, &view, &args.file),
            ConfigCommand::Check(args) => check(&voice, &args.file),
            ConfigCommand::History => history(&voice, &view),
            ConfigCommand::Apply(args) => {
                let mut settings = match &args.file {
                    Some(file) => settings_of(file)?,
                    None => BTreeMap::new(),
                };
                settings.extend(args.set.iter().copied());
                let base = args.if_version.map_or(view.configured.version, ConfigVersion);
                apply(&voice, &client, &view, (base, settings), &args.author).await
            }
            ConfigCommand::Rollback(args) => {
                let base = view.configured.version;
                let then = view.configured.at(ConfigVersion(args.version), &view.config);
                let then = then.ok_or_else(|| no_such_version(&view, args.version))?;
                let author = Author { why: why_back(args), ..args.author.clone() };
                let settings = differences(&view.config, &then);
                apply(&voice, &client, &view, (base, settings), &author).await
            }
        }
    })
}

fn why_back(args: &RollbackArgs) -> String {
    let back = format!("back to version {}", args.version);
    if args.author.why.is_empty() { back } else { format!("{back}: {}", args.author.why) }
}

fn no_such_version(view: &View, version: u64) -> CliError {
    let configured = &view.configured;
    let oldest = configured.history.first().map_or(configured.version.0, |e| e.version.0 - 1);
    CliError::new(Trouble::Refused, format!("the settings of version {version} are not known"))
        .why(format!("known are those of versions {oldest} to {}", configured.version.0))
        .then("`lockstep config history` shows the changes")
}

fn settings_of(file: &Path) -> CliResult<BTreeMap<Setting, u64>> {
    read_file(file).map_err(config_error)
}

/// What makes one configuration of another.
fn differences(from: &ClusterConfig, to: &ClusterConfig) -> BTreeMap<Setting, u64> {
    let all = Setting::ALL.iter().filter(|setting| setting.of(from) != setting.of(to));
    all.map(|setting| (*setting, setting.of(to))).collect()
}

fn show(voice: &Voice, view: &View, origin: bool) -> CliResult<ExitKind> {
    let configured = &view.configured;
    let settings: Vec<Value> = Setting::ALL
        .iter()
        .map(|setting| {
            let (value, (least, most)) = (setting.of(&view.config), setting.bounds());
            let entry = configured.origin(*setting);
            json!({
                "name": setting.name(), "value": setting.show(value), "number": value,
                "least": setting.show(least), "most": setting.show(most),
                "version": entry.map_or(0, |e| e.version.0),
                "who": entry.map(|e| &e.who), "when": entry.map(|e| moment(e.when_ms)),
            })
        })
        .collect();
    let fixed = json!({
        "partitions": view.config.partitions,
        "replicas": view.config.replicas,
        "peer_death": if view.config.peer_death_by_fin { "fin" } else { "never" },
    });
    let json = json!({
        "schema": "lockstep.config/v1", "version": configured.version.0,
        "settings": settings, "fixed": fixed,
    });
    let text = || {
        let mut rows = Vec::new();
        for setting in Setting::ALL {
            let (least, most) = setting.bounds();
            let value = setting.show(setting.of(&view.config));
            let mut row = vec![setting.name().to_owned(), value];
            row.push(format!("{} to {}", setting.show(least), setting.show(most)));
            if origin {
                row.push(configured.origin(*setting).map_or_else(
                    || "the creation of the cluster, or an older change".to_owned(),
                    |e| format!("version {} by {}, {}", e.version.0, e.who, moment(e.when_ms)),
                ));
            }
            rows.push(row);
        }
        let heads = ["setting", "value", "may be", "set by"];
        let heads = if origin { &heads[..] } else { &heads[..3] };
        let fixed = format!(
            "fixed: {} partitions, {} replicas, peer_death {}",
            view.config.partitions,
            view.config.replicas,
            if view.config.peer_death_by_fin { "fin" } else { "never" }
        );
        format!("version {}\n\n{}\n{fixed}\n", configured.version.0, table(heads, &rows))
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn changes_of<'a>(
    config: &ClusterConfig,
    settings: impl Iterator<Item = (&'a Setting, &'a u64)>,
) -> Vec<(Setting, u64, u64)> {
    let all = settings.map(|(setting, to)| (*setting, setting.of(config), *to));
    all.filter(|(_, from, to)| from != to).collect()
}

fn change_json((setting, from, to): &(Setting, u64, u64)) -> Value {
    json!({ "name": setting.name(), "from": setting.show(*from), "to": setting.show(*to) })
}

fn change_text((setting, from, to): &(Setting, u64, u64)) -> String {
    format!("{} {} → {}", setting.name(), setting.show(*from), setting.show(*to))
}

fn diff(voice: &Voice, view: &View, file: &Path) -> CliResult<ExitKind> {
    let settings = settings_of(file)?;
    let changes = changes_of(&view.config, settings.iter());
    let json = json!({
        "schema": "lockstep.config-diff/v1", "version": view.configured.version.0,
        "changes": changes.iter().map(change_json).collect::<Vec<_>>(),
    });
    let text = || changes.iter().map(|change| change_text(change) + "\n").collect();
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(if changes.is_empty() { ExitKind::Done } else { ExitKind::Different })
}

fn check(voice: &Voice, file: &Path) -> CliResult<ExitKind> {
    let (count, settings) = check_file(file).map_err(config_error)?;
    let change = wanted(ConfigVersion(0), settings);
    change.applied_to(&ClusterConfig::default()).map_err(|unfit| {
        CliError::new(Trouble::Config, unfit.to_string())
            .why(format!("{} on top of the defaults", file.display()))
    })?;
    let json = json!({ "schema": "lockstep.config-check/v1", "settings": count });
    let text = || format!("{count} settings, all within their bounds\n");
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn wanted(base: ConfigVersion, settings: BTreeMap<Setting, u64>) -> ConfigChange {
    let (who, why) = (String::new(), String::new());
    ConfigChange { id: 0, base, who, when_ms: 0, why, settings }
}

fn history(voice: &Voice, view: &View) -> CliResult<ExitKind> {
    let entries = &view.configured.history;
    let rows: Vec<Value> = entries.iter().map(entry_json).collect();
    let text = || {
        let line = |entry: &ConfigEntry| {
            let changes: Vec<String> = entry.changes.iter().map(change_text).collect();
            vec![
                entry.version.0.to_string(),
                moment(entry.when_ms),
                entry.who.clone(),
                changes.join(", "),
                entry.why.clone(),
            ]
        };
        let lines: Vec<Vec<String>> = entries.iter().map(line).collect();
        table(&["version", "when", "who", "what", "why"], &lines)
    };
    voice.list("lockstep.config-history/v1", "changes", &rows, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn entry_json(entry: &ConfigEntry) -> Value {
    json!({
        "version": entry.version.0, "when": moment(entry.when_ms), "who": entry.who,
        "why": entry.why, "changes": entry.changes.iter().map(change_json).collect::<Vec<_>>(),
    })
}

async fn apply(
    voice: &Voice,
    client: &Client,
    view: &View,
    (base, settings): (ConfigVersion, BTreeMap<Setting, u64>),
    author: &Author,
) -> CliResult<ExitKind> {
    let changes = changes_of(&view.config, settings.iter());
    let told = |version: ConfigVersion, changes: &[(Setting, u64, u64)]| {
        let json = json!({
            "schema": "lockstep.config-apply/v1", "version": version.0,
            "changes": changes.iter().map(change_json).collect::<Vec<_>>(),
        });
        let text = || match changes {
            [] => format!("nothing to change: version {} is as wanted\n", version.0),
            _ => {
                let lines: String = changes.iter().map(|c| change_text(c) + "\n").collect();
                format!("{lines}version {} is in force\n", version.0)
            }
        };
        voice.data(&json, text).map_err(stdout_error)
    };
    if changes.is_empty() && base == view.configured.version {
        told(base, &[])?;
        return Ok(ExitKind::Done);
    }
    let entry = client.configure(base, settings, &author.who(), &author.why).await;
    let entry = entry.map_err(|error| {
        let mut error = CliError::from(error);
        if error.number == lockstep_proto::error::Code::ConfigOutdated as u16 {
            error.exit = ExitKind::Refused;
        }
        error
    })?;
    told(entry.version, &entry.changes)?;
    Ok(ExitKind::Done)
}
