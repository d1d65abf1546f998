//! Laying the sources over each other.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, ConfigErrors, excerpt};
use super::values::{ClusterNodes, LOCAL_NODE_MAX, http_address, local_address};
use super::{Config, Field, SettingFlags, check, environment, file};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    #[default]
    Default,
    /// The default, made from the setting with this key.
    From(&'static str),
    File {
        path: Arc<Path>,
        line: usize,
    },
    /// By its name.
    Variable(String),
    /// By its name, without the dashes before it.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::From(key) => write!(f, "default, from {key}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A value that somebody gave.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub field: &'static Field,
    pub value: toml::Value,
    pub origin: Origin,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key)
    }
}

/// What holds, and why.
#[derive(Debug, Clone)]
pub struct Effective {
    pub config: Config,
    pub(super) origins: BTreeMap<&'static str, Origin>,
}

impl Effective {
    /// Where the value of a key comes from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        !matches!(self.origin(key), Origin::Default | Origin::From(_))
    }

    fn put(&mut self, given: Given, errors: &mut Vec<ConfigError>) {
        let Given { field, value, origin } = given;
        if let Err(expected) = (field.read)(&mut self.config, &value) {
            let (key, value, origin) = (field.key, excerpt(&value), origin.clone());
            errors.push(ConfigError::Invalid { key, value, origin, expected });
        }
        self.origins.insert(field.key, origin);
    }

    /// Whether `key` was not given, so that it follows from `other`.
    fn derives(&mut self, key: &'static str, other: &'static str) -> bool {
        let derives = !self.is_given(key);
        if derives && self.origin(other) != Origin::Default {
            self.origins.insert(key, Origin::From(other));
        }
        derives
    }

    /// Gives those defaults that depend on other settings.
    fn derive(&mut self) -> Result<(), ConfigError> {
        let node = self.config.node_id;
        let own = self.is_given("cluster_nodes").then(|| self.config.cluster_nodes.get(node).cloned()).flatten();
        if node.0 > LOCAL_NODE_MAX && !(self.is_given("http") && (own.is_some() || self.is_given("listen"))) {
            let message = format!("node_id = {} has no default ports: give listen and http", node.0);
            return Err(ConfigError::Contradiction(message));
        }
        let found_in = if own.is_some() { "cluster_nodes" } else { "node_id" };
        if self.derives("listen", found_in) {
            self.config.listen = own.clone().unwrap_or_else(|| local_address(node));
        }
        if self.derives("advertise", if own.is_some() { "cluster_nodes" } else { "listen" }) {
            self.config.advertise = own.unwrap_or_else(|| self.config.listen.clone());
        }
        if self.derives("http", "node_id") {
            self.config.http = http_address(node);
        }
        if self.derives("cluster_nodes", "advertise") {
            self.config.cluster_nodes = ClusterNodes::only(node, self.config.advertise.clone());
        }
        if self.derives("tls.dir", "data_dir") {
            self.config.tls.dir = self.config.data_dir.join("tls");
        }
        if self.derives("tls.ca", "tls.dir") {
            self.config.tls.ca = self.config.tls.dir.join("ca.pem");
        }
        Ok(())
    }
}

/// The settings that hold for this command line and environment.
pub fn load(
    flags: SettingFlags,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Effective, ConfigErrors> {
    let mut errors = Vec::new();
    let environment = environment::read(variables, &mut errors);
    let config_file = flags.config_file.or(environment.config_file);
    let from_file = config_file.map(|path| file::read(&path, &mut errors)).unwrap_or_default();
    let mut effective = Effective { config: Config::default(), origins: BTreeMap::new() };
    for given in from_file.into_iter().chain(environment.given).chain(flags.given) {
        effective.put(given, &mut errors);
    }
    // What was not understood would only lead to more complaints.
    if errors.is_empty() {
        match effective.derive() {
            Ok(()) => errors = check::contradictions(&effective),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(effective) } else { Err(ConfigErrors(errors)) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::config::flags::tests::flags;

    pub(in crate::config) fn loaded(args: &[&str]) -> Result<Effective, String> {
        load(flags(args), []).map_err(|errors| errors.to_string())
    }

    #[test]
    fn nothing_said_is_one_node_of_all_roles() {
        let effective = loaded(&[]).unwrap();
        assert_eq!(effective.config, Config::default(), "the list gives defaults as they are for a node told nothing");
        assert_eq!(effective.origin("listen"), Origin::Default);
    }

    #[test]
    fn flags_weigh_more_than_variables_and_these_more_than_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        fs::write(&path, "weight = 1\nshards = 1\n\ndata_threads = 1\n").unwrap();
        let variables = [("DLOG_CONFIG", path.to_str().unwrap()), ("DLOG_WEIGHT", "2"), ("DLOG_SHARDS", "2")];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let effective = load(flags(&["--weight", "3"]), variables).unwrap();
        let config = &effective.config;
        assert_eq!((config.weight, config.shards, config.data_threads), (3, 2, 1));
        let origins = ["weight", "shards", "data_threads"].map(|key| effective.origin(key).to_string());
        assert_eq!(origins, ["--weight".to_owned(), "DLOG_SHARDS".to_owned(), format!("{}:4", path.display())]);
    }

    #[test]
    fn a_local_cluster_needs_only_numbers() {
        let effective = loaded(&["--node-id", "2", "--cluster-nodes", "1,2,3", "--data-dir", "d2"]).unwrap();
        let config = effective.config.clone();
        assert_eq!(config.listen.to_string(), "localhost:9093");
        assert_eq!(config.advertise, config.listen);
        assert_eq!(config.http.to_string(), "localhost:9645");
        assert_eq!((config.tls.dir, config.tls.ca), ("d2/tls".into(), "d2/tls/ca.pem".into()));
        let origins = ["listen", "http", "tls.ca", "weight"].map(|key| effective.origin(key).to_string());
        assert_eq!(
            origins,
            ["default, from cluster_nodes", "default, from node_id", "default, from tls.dir", "default"]
        );
    }

    #[test]
    fn a_node_listens_where_the_cluster_looks_for_it() {
        let nodes = "1=10.0.0.1:7000,2=10.0.0.2:7000";
        let config = loaded(&["--node-id", "2", "--cluster-nodes", nodes]).unwrap().config;
        assert_eq!(
            (config.listen.to_string(), config.advertise.to_string()),
            ("10.0.0.2:7000".into(), "10.0.0.2:7000".into())
        );
        let wide = ["--node-id", "2", "--cluster-nodes", nodes, "--listen", "0.0.0.0:7000"];
        let config = loaded(&wide).unwrap().config;
        assert_eq!(
            (config.listen.to_string(), config.advertise.to_string()),
            ("0.0.0.0:7000".into(), "10.0.0.2:7000".into())
        );
        let config = loaded(&["--listen", "10.0.0.9:1"]).unwrap().config;
        assert_eq!(config.cluster_nodes.to_string(), "1=10.0.0.9:1", "alone, under its own address");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let error = loaded(&["--weight", "lots", "--shards", "0", "--listen", "localhost"]).unwrap_err();
        assert_eq!(
            error,
            "listen = \"localhost\" (--listen): an address such as localhost:9092, 10.0.0.1:9092 or [::1]:9092 is expected\n\
             weight = \"lots\" (--weight): a whole number is expected, from 0 to 10000\n\
             shards = \"0\" (--shards): from 1 to 64 is expected"
        );
    }

    #[test]
    fn a_node_without_default_ports_must_be_told() {
        assert!(loaded(&["--node-id", "60000"]).unwrap_err().contains("node_id = 60000 has no default ports"));
        assert!(loaded(&["--node-id", "60000", "--listen", "a:1", "--http", "a:2"]).is_ok());
    }
}
