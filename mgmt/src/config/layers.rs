//! Settings from their layers: default < file < environment < flag. What is written is read as
//! text; what it means is decided once, when all layers are in.
//!
//! Invariant: a setting nobody knows is an error wherever it comes from, so that a typing mistake
//! never silently means "the default".

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::suggest::nearest;

/// Environment variables of this form are settings: `LOCKSTEP__NODE__ZONE`.
const ENVIRONMENT_PREFIX: &str = "LOCKSTEP__";

/// One setting there is.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.name`.
    pub name: &'static str,
    /// What it is, for errors.
    pub is: &'static str,
    /// How to write it in a file.
    pub example: &'static str,
}

/// A setting given by a flag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagSetting {
    /// The key it sets.
    pub key: &'static str,
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The values, in order.
    pub values: Vec<String>,
}

/// All settings that were written, the strongest layer of each.
#[derive(Debug)]
pub struct Settings {
    keys: &'static [Key],
    written: BTreeMap<&'static str, Setting>,
}

#[derive(Debug)]
struct Setting {
    words: Vec<String>,
    origin: Origin,
}

impl Settings {
    /// Reads all layers. `environment` is that of the process.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn read(
        keys: &'static [Key],
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: Vec<FlagSetting>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Self { keys, written: BTreeMap::new() };
        if let Some(path) = file {
            settings.read_file(path)?;
        }
        for (variable, value) in environment {
            settings.read_variable(&variable, &value)?;
        }
        for FlagSetting { key, flag, values } in flags {
            settings.write(key, values, Origin::Flag(flag.to_owned()))?;
        }
        Ok(settings)
    }

    /// How many are written.
    #[must_use]
    pub fn count(&self) -> usize {
        self.written.len()
    }

    /// A value for a setting that no layer has.
    pub fn fill(&mut self, name: &'static str, word: &str) {
        let origin = Origin::Absent;
        let setting = || Setting { words: vec![word.to_owned()], origin };
        self.written.entry(name).or_insert_with(setting);
    }

    /// The value of a setting that may be left out, as `parse` reads it.
    ///
    /// # Errors
    /// If it is written but not understood.
    pub fn optional<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(Setting { words, origin }) = self.written.get(name) else { return Ok(None) };
        let parsed = match &words[..] {
            [word] => parse(word),
            _ => Err("it must be one value, not a list".to_owned()),
        };
        parsed.map(Some).map_err(|why| self.refuse(name, words, origin, why))
    }

    /// The value of a setting that must be written.
    ///
    /// # Errors
    /// If it is left out or not understood.
    pub fn required<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.optional(name, parse)?.ok_or_else(|| self.absent(name))
    }

    /// The values of a list, each as `parse` reads it; empty if left out. From the environment or
    /// a flag, commas separate them.
    ///
    /// # Errors
    /// If one is not understood.
    pub fn list<T>(
        &self,
        name: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(Setting { words, origin }) = self.written.get(name) else { return Ok(Vec::new()) };
        let split = |word: &String| match origin {
            Origin::File { .. } => vec![word.clone()],
            _ => word.split(',').map(|part| part.trim().to_owned()).collect(),
        };
        let parts = words.iter().flat_map(split).filter(|part| !part.is_empty());
        parts
            .map(|part| parse(&part))
            .collect::<Result<Vec<T>, String>>()
            .map_err(|why| self.refuse(name, words, origin, why))
    }

    /// The error of a setting that makes no sense beside others.
    #[must_use]
    pub fn misfit(&self, name: &'static str, why: impl Into<String>) -> ConfigError {
        match self.written.get(name) {
            Some(Setting { words, origin }) => self.refuse(name, words, origin, why.into()),
            None => ConfigError { why: why.into(), ..self.absent(name) },
        }
    }

    /// The error of a setting that is missing.
    #[must_use]
    pub fn absent(&self, name: &'static str) -> ConfigError {
        let key = self.key(name);
        ConfigError {
            origin: Origin::Absent,
            what: format!("`{name}` is not set"),
            why: format!("it is {}", key.is),
            then: format!(
                "write {} in the file, set {}, or use the flag",
                in_file(key),
                variable_of(name)
            ),
        }
    }

    fn refuse(&self, name: &str, words: &[String], origin: &Origin, why: String) -> ConfigError {
        let key = self.key(name);
        ConfigError {
            origin: origin.clone(),
            what: format!("`{name}` cannot be {:?}", words.join(", ")),
            why: format!("{why}; it is {}", key.is),
            then: format!("write for example {}", in_file(key)),
        }
    }

    fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|key| key.name == name).expect("settings are read by known names")
    }

    fn write(&mut self, name: &str, words: Vec<String>, origin: Origin) -> Result<(), ConfigError> {
        let Some(key) = self.keys.iter().find(|key| key.name == name) else {
            return Err(self.unknown(name, origin));
        };
        self.written.insert(key.name, Setting { words, origin });
        Ok(())
    }

    fn unknown(&self, name: &str, origin: Origin) -> ConfigError {
        let (section, short) = name.split_once('.').unwrap_or(("", name));
        let names = || self.keys.iter().map(|key| key.name);
        let shorts = || self.keys.iter().filter_map(|key| Some(key.name.split_once('.')?.1));
        let own: Vec<&str> = names().filter(|n| n.starts_with(&format!("{section}."))).collect();
        let then = match nearest(short, shorts()) {
            Some(meant) => {
                let of = |known: &&str| known.split_once('.').is_some_and(|(_, n)| n == meant);
                let meant = own.iter().copied().find(of).or_else(|| names().find(of));
                format!("did you mean `{}`?", meant.expect("one of the known"))
            }
            None if own.is_empty() => {
                format!("known are {}", names().collect::<Vec<_>>().join(", "))
            }
            None => format!("known are {}", own.join(", ")),
        };
        ConfigError {
            origin,
            what: format!("`{name}` is not a setting"),
            why: "an unknown setting would be ignored without a word".to_owned(),
            then,
        }
    }

    fn read_variable(&mut self, variable: &str, value: &str) -> Result<(), ConfigError> {
        let Some(path) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { return Ok(()) };
        let name = path.to_ascii_lowercase().replacen("__", ".", 1);
        self.write(&name, vec![value.to_owned()], Origin::Environment(variable.to_owned()))
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            origin: Origin::Unread(path.to_owned()),
            what: "the configuration file cannot be read".to_owned(),
            why: error.to_string(),
            then: "check the path".to_owned(),
        })?;
        let at = |span: std::ops::Range<usize>| {
            let line = text[..span.start].bytes().filter(|byte| *byte == b'\n').count() + 1;
            Origin::File { path: path.to_owned(), line }
        };
        let table = DeTable::parse(&text).map_err(|error| ConfigError {
            origin: at(error.span().unwrap_or(0..0)),
            what: "not TOML".to_owned(),
            why: error.message().to_owned(),
            then: "each line is [section] or name = value".to_owned(),
        })?;
        for (section, content) in table.get_ref() {
            let section_name = section.get_ref();
            let DeValue::Table(settings) = content.get_ref() else {
                return Err(self.unknown(section_name, at(section.span())));
            };
            for (name, value) in settings {
                let origin = at(name.span());
                let name = format!("{section_name}.{}", name.get_ref());
                match words_of(value) {
                    Some(words) => self.write(&name, words, origin)?,
                    None => return Err(self.unknown(&name, origin)),
                }
            }
        }
        Ok(())
    }
}

/// A scalar as one word, a list of scalars as several; `None` for what no setting is.
fn words_of(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(integer.to_string()),
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    };
    match value.get_ref() {
        DeValue::Array(list) => list.iter().map(|item| scalar(item.get_ref())).collect(),
        other => scalar(other).map(|word| vec![word]),
    }
}

fn in_file(key: &Key) -> String {
    let (section, name) = key.name.split_once('.').expect("names have a section");
    format!("`{name} = {}` under [{section}]", key.example)
}

fn variable_of(name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", name.to_ascii_uppercase().replace('.', "__"))
}
