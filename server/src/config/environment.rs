//! Settings from `DLOG_…` variables.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{ConfigError, excerpt, nearest};
use super::load::{Given, Origin};
use super::schema::VARIABLE_PREFIX;
use super::{FIELDS, Field};

/// Names the config file.
pub(super) const CONFIG_VARIABLE: &str = "DLOG_CONFIG";

/// What clients read; a server's environment may have them too.
const CLIENTS: [&str; 2] = ["DLOG_SERVER", "DLOG_CA"];

/// What the environment says.
#[derive(Default)]
pub(super) struct Environment {
    pub config_file: Option<PathBuf>,
    pub given: Vec<Given>,
}

/// Reads all that can be read; what cannot goes into `errors`. An empty variable is one that is not set.
pub(super) fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    errors: &mut Vec<ConfigError>,
) -> Environment {
    let mut environment = Environment::default();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else { continue };
        if value.is_empty() || CLIENTS.contains(&name) {
            continue;
        }
        if name == CONFIG_VARIABLE {
            environment.config_file = Some(value.into());
            continue;
        }
        let text = value.to_string_lossy();
        match FIELDS.iter().find(|field| field.variable() == name) {
            Some(field) => {
                let (origin, expected) = (Origin::Variable(field.variable()), "text in UTF-8 is expected".to_owned());
                let given = toml::Value::from(text.as_ref());
                if value.to_str().is_some() {
                    environment.given.push(Given { field, value: given, origin });
                } else {
                    errors.push(ConfigError::Invalid { key: field.key, value: excerpt(&given), origin, expected });
                }
            }
            None if is_service_link(name, &text) => {}
            None => {
                let nearest = nearest(name, FIELDS.iter().map(Field::variable));
                errors.push(ConfigError::UnknownVariable { name: name.to_owned(), nearest });
            }
        }
    }
    environment
}

/// Kubernetes tells each container of every service: for one named `dlog` or `dlog-…`, in variables that begin with
/// `DLOG_`. Nobody wrote them, so they are no mistake.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_port =
        |rest: &str| rest.split_once('_').is_some_and(|(port, kind)| is_number(port) && kind.starts_with(['T', 'U']));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| of_port(rest))
        || name.ends_with("_PORT") && value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(variables: &[(&str, &str)]) -> (Environment, Vec<String>) {
        let mut errors = Vec::new();
        let environment = read(variables.iter().map(|(name, value)| (name.into(), value.into())), &mut errors);
        (environment, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn variables_set_what_they_are_named_for() {
        let variables =
            [("DLOG_NODE_ID", "2"), ("DLOG_LIMITS_BLOCK_BYTES", "2MiB"), ("PATH", "/bin"), ("DLOG_HTTP", "")];
        let (environment, errors) = read_all(&variables);
        assert_eq!(errors, Vec::<String>::new());
        let given: Vec<_> = environment.given.iter().map(|given| (given.field.key, given.origin.to_string())).collect();
        assert_eq!(
            given,
            [("node_id", "DLOG_NODE_ID".to_owned()), ("limits.block_bytes", "DLOG_LIMITS_BLOCK_BYTES".to_owned())]
        );
        assert_eq!(read_all(&[("DLOG_CONFIG", "/x")]).0.config_file, Some("/x".into()));
    }

    #[test]
    fn a_misspelt_variable_is_named() {
        let (_, errors) = read_all(&[("DLOG_NODEID", "2"), ("DLOG_SERVER", "a:1"), ("DLOG_CA", "ca.pem")]);
        assert_eq!(
            errors,
            ["unknown variable DLOG_NODEID, did you mean 'DLOG_NODE_ID'?; `dlog --help` lists all variables"]
        );
    }

    #[test]
    fn what_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let mut errors = Vec::new();
        read([("DLOG_DATA_DIR".into(), OsString::from_vec(vec![b'd', 0xff]))], &mut errors);
        assert_eq!(errors[0].to_string(), "data_dir = \"d\u{fffd}\" (DLOG_DATA_DIR): text in UTF-8 is expected");
    }

    #[test]
    fn what_kubernetes_sets_is_no_mistake() {
        let links = [
            ("DLOG_PORT", "tcp://10.0.0.1:9092"),
            ("DLOG_SERVICE_HOST", "10.0.0.1"),
            ("DLOG_SERVICE_PORT", "9092"),
            ("DLOG_SERVICE_PORT_HTTP", "9644"),
            ("DLOG_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("DLOG_HEADLESS_PORT_9092_UDP", "udp://10.0.0.1:9092"),
        ];
        assert_eq!(read_all(&links).1, Vec::<String>::new());
        assert_eq!(read_all(&[("DLOG_PORT", "9092")]).1.len(), 1, "somebody meant something by that");
    }
}
