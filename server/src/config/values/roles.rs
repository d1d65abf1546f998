//! What a node does.

use dlog_metadata::state::Roles;

use super::{Setting, Shown, read_list};

/// `None` if there is none, or one is not known.
fn roles_of(names: &[String]) -> Option<Roles> {
    let mut roles = Roles::default();
    for name in names {
        let role = match name.as_str() {
            "metadata" => &mut roles.metadata,
            "sequencer" => &mut roles.sequencer,
            "storage" => &mut roles.storage,
            _ => return None,
        };
        *role = true;
    }
    (!names.is_empty()).then_some(roles)
}

impl Setting for Roles {
    const PLACEHOLDER: &'static str = "ROLES";

    fn read(value: &toml::Value) -> Result<Self, String> {
        let roles = read_list(value).and_then(|names| roles_of(&names));
        roles.ok_or_else(|| "one or more of metadata, sequencer, storage, separated by commas, are expected".to_owned())
    }

    fn show(&self) -> Shown {
        Shown { text: self.to_string(), json: self.names().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::tests::{from_text, from_toml};

    #[test]
    fn roles_are_named() {
        let storage = Roles { metadata: false, sequencer: false, storage: true };
        assert_eq!(from_text("storage"), Ok(storage));
        assert_eq!(from_text("storage, metadata"), Ok(Roles { metadata: true, ..storage }));
        assert_eq!(from_toml(r#"["metadata", "sequencer", "storage"]"#), Ok(Roles::ALL));
        assert_eq!(Roles::ALL.to_string(), "metadata,sequencer,storage");
        for bad in [r#""""#, "[]", r#""disk""#, "[1]", "true"] {
            assert!(from_toml::<Roles>(bad).unwrap_err().contains("metadata, sequencer, storage"), "{bad}");
        }
    }
}
