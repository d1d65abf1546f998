//! What a node does.

use std::fmt;

use super::{Setting, Shown, read_list};

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub metadata: bool,
    pub sequencer: bool,
    pub storage: bool,
}

impl Roles {
    pub const ALL: Self = Self { metadata: true, sequencer: true, storage: true };

    pub fn names(self) -> Vec<&'static str> {
        let roles = [(self.metadata, "metadata"), (self.sequencer, "sequencer"), (self.storage, "storage")];
        roles.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }

    fn of(names: &[String]) -> Option<Self> {
        let mut roles = Self { metadata: false, sequencer: false, storage: false };
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
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl Setting for Roles {
    const PLACEHOLDER: &'static str = "ROLES";

    fn read(value: &toml::Value) -> Result<Self, String> {
        let roles = read_list(value).and_then(|names| Self::of(&names));
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
