//! What can be wrong with a node's settings: the key, the value, where it stands, and what is expected instead.

use std::fmt;
use std::path::PathBuf;

use super::load::Origin;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the config file {path}: {why}")]
    Unreadable { path: PathBuf, why: String },
    #[error("{path} is not a TOML file: {why}")]
    NotToml { path: PathBuf, why: String },
    #[error("{origin}: unknown key '{key}'{}; `dlog config show` lists all keys", did_you_mean(nearest.as_deref()))]
    UnknownKey { key: String, origin: Origin, nearest: Option<String> },
    #[error("unknown variable {name}{}; `dlog --help` lists all variables", did_you_mean(nearest.as_deref()))]
    UnknownVariable { name: String, nearest: Option<String> },
    #[error("{origin}: '{key}' is a section: its keys stand under [{key}]")]
    NotASection { key: String, origin: Origin },
    #[error("{key} = {value} ({origin}): {expected}")]
    Invalid { key: &'static str, value: String, origin: Origin, expected: String },
    /// Two settings that do not go together. The message names both.
    #[error("{0}")]
    Contradiction(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(", did you mean '{nearest}'?"))
}

/// All that is wrong, so that it can be mended at once. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The one of `known` that was probably meant.
pub(super) fn nearest(given: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let by_likeness = known.into_iter().map(|known| (strsim::jaro_winkler(given, &known), known));
    by_likeness.filter(|(likeness, _)| *likeness > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// A value as it may be shown in an error: short, on one line.
pub(super) fn excerpt(value: &toml::Value) -> String {
    const LEN_MAX: usize = 80;
    let text = value.to_string().replace('\n', " ");
    if text.chars().count() <= LEN_MAX { text } else { text.chars().take(LEN_MAX).chain("…".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_offered_if_it_is_near() {
        let known = || ["node_id", "data_dir", "listen"].map(str::to_owned);
        assert_eq!(nearest("nodeid", known()).as_deref(), Some("node_id"));
        assert_eq!(nearest("listn", known()).as_deref(), Some("listen"));
        assert_eq!(nearest("zebra", known()), None);
    }

    #[test]
    fn an_excerpt_is_bounded_and_on_one_line() {
        assert_eq!(excerpt(&"a".into()), r#""a""#);
        let long = excerpt(&"x\n".repeat(500).into());
        assert!(long.len() < 100 && !long.contains('\n'), "{long}");
    }
}
