//! Settings from a TOML file, each with the line on which it stands.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::{ConfigError, nearest};
use super::load::{Given, Origin};
use super::{FIELDS, Field};

/// Reads all that can be read; what cannot goes into `errors`.
pub(super) fn read(path: &Path, errors: &mut Vec<ConfigError>) -> Vec<Given> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text, errors),
        Err(error) => {
            errors.push(ConfigError::Unreadable { path: path.to_owned(), why: error.to_string() });
            Vec::new()
        }
    }
}

fn parse(path: &Path, text: &str, errors: &mut Vec<ConfigError>) -> Vec<Given> {
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(mut error) => {
            error.set_input(Some(text));
            errors.push(ConfigError::NotToml { path: path.to_owned(), why: error.to_string().trim_end().to_owned() });
            return Vec::new();
        }
    };
    let mut reading = Reading { path: path.into(), text, given: Vec::new(), errors };
    reading.table(table, None);
    reading.given
}

struct Reading<'a> {
    path: Arc<Path>,
    text: &'a str,
    given: Vec<Given>,
    errors: &'a mut Vec<ConfigError>,
}

impl Reading<'_> {
    fn table(&mut self, table: DeTable<'_>, section: Option<&str>) {
        for (name, value) in table {
            let line = 1 + self.text[..name.span().start].matches('\n').count();
            let origin = Origin::File { path: Arc::clone(&self.path), line };
            let key =
                section.map_or_else(|| name.get_ref().to_string(), |section| format!("{section}.{}", name.get_ref()));
            match FIELDS.iter().find(|field| field.key == key) {
                Some(field) => self.value(field, value, origin),
                None => self.section(key, value, origin),
            }
        }
    }

    fn value(&mut self, field: &'static Field, value: Spanned<DeValue<'_>>, origin: Origin) {
        let value = toml::Value::deserialize(ValueDeserializer::from(value));
        let value = value.expect("every value of a parsed file is a value");
        self.given.push(Given { field, value, origin });
    }

    fn section(&mut self, key: String, value: Spanned<DeValue<'_>>, origin: Origin) {
        let known = FIELDS.iter().any(|field| field.section == Some(&key));
        match value.into_inner() {
            DeValue::Table(table) if known => self.table(table, Some(&key)),
            _ if known => self.errors.push(ConfigError::NotASection { key, origin }),
            _ => {
                let sections = FIELDS.iter().filter_map(|field| field.section);
                let known = FIELDS.iter().map(|field| field.key).chain(sections).map(str::to_owned);
                let nearest = nearest(&key, known);
                self.errors.push(ConfigError::UnknownKey { key, origin, nearest });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<String>, Vec<String>) {
        let mut errors = Vec::new();
        let given = parse(Path::new("d.toml"), text, &mut errors);
        let given = given.iter().map(|given| format!("{} {}={}", given.origin, given.field.key, given.value));
        (given.collect(), errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn values_come_with_their_line() {
        let text = "# a node\nnode_id = 2\n\n[limits]\nconnections_max = 100\n\n[cluster_nodes]\n1 = \"a:1\"\n";
        let (given, errors) = parsed(text);
        assert_eq!(errors, Vec::<String>::new());
        assert!(given.contains(&"d.toml:2 node_id=2".to_owned()), "{given:?}");
        assert!(given.contains(&"d.toml:5 limits.connections_max=100".to_owned()), "{given:?}");
        assert!(given.contains(&"d.toml:7 cluster_nodes={ 1 = \"a:1\" }".to_owned()), "{given:?}");
        assert_eq!(parsed("limits.block_bytes = 1").0, ["d.toml:1 limits.block_bytes=1"]);
    }

    #[test]
    fn unknown_keys_are_named_with_their_place_and_the_nearest_known_one() {
        let (_, errors) = parsed("nodeid = 2\n[limits]\nconnection_max = 1\n[limit]\nx = 1\n[zebra]\n");
        assert_eq!(
            errors,
            [
                "d.toml:4: unknown key 'limit', did you mean 'limits'?; `dlog config show` lists all keys",
                "d.toml:3: unknown key 'limits.connection_max', did you mean 'limits.connections_max'?; `dlog config show` lists \
                 all keys",
                "d.toml:1: unknown key 'nodeid', did you mean 'node_id'?; `dlog config show` lists all keys",
                "d.toml:6: unknown key 'zebra'; `dlog config show` lists all keys",
            ]
        );
        assert_eq!(parsed("limits = 5").1, ["d.toml:1: 'limits' is a section: its keys stand under [limits]"]);
    }

    #[test]
    fn what_is_not_toml_is_shown() {
        let (_, errors) = parsed("node_id = 1\nlisten = localhost:9092\n");
        assert!(errors[0].starts_with("d.toml is not a TOML file: ") && errors[0].contains("line 2"), "{errors:?}");
        let (_, errors) = parsed("node_id = 1\nnode_id = 2\n");
        assert!(errors[0].contains("duplicate key"), "{errors:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut errors = Vec::new();
        assert!(read(Path::new("/no/such.toml"), &mut errors).is_empty());
        assert!(errors[0].to_string().starts_with("cannot read the config file /no/such.toml: "), "{errors:?}");
    }
}
