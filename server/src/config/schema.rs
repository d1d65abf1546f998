//! One list of settings, from which structs, keys, flags, variables, defaults, ranges and help are made.

use super::Config;
use super::values::Shown;

/// A setting, as something that can be listed.
pub struct Field {
    /// Where it stands in a file: `node_id`, `limits.connections_max`.
    pub key: &'static str,
    pub(super) section: Option<&'static str>,
    /// The doc comment of the field, a space before each line.
    pub(super) doc: &'static str,
    /// What its default is made from, if it is not the same for all nodes.
    pub(super) derived: Option<&'static str>,
    /// What stands for the value in help: `HOST:PORT`.
    pub(super) placeholder: &'static str,
    /// Puts a value in. An error says what is expected instead.
    pub(super) read: fn(&mut Config, &toml::Value) -> Result<(), String>,
    pub(super) show: fn(&Config) -> Shown,
}

impl Field {
    /// Its flag, without the dashes before it.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    pub fn about(&self) -> &'static str {
        self.doc.trim()
    }
}

/// What all variables of a node begin with.
pub(super) const VARIABLE_PREFIX: &str = "DLOG_";

/// Declares settings: `/// help`, `key: Type = default`, then `within low..=high` or `derived "from what"` where it applies;
/// then sections of settings, `section key: Type "help" { … }`.
/// Defaults are given as they are for a node that is told nothing.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $root:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident : $type:ty = $default:expr $(, within $range:expr)? $(, derived $derived:literal)? ;
            )+
            $(
                section $section:ident : $section_type:ident $section_doc:literal {
                    $(
                        $(#[doc = $inner_doc:literal])+
                        $inner:ident : $inner_type:ty = $inner_default:expr
                            $(, within $inner_range:expr)? $(, derived $inner_derived:literal)? ;
                    )+
                }
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $root {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            $( #[doc = $section_doc] pub $section: $section_type, )*
        }

        impl Default for $root {
            fn default() -> Self {
                Self { $( $field: $default, )+ $( $section: $section_type::default(), )* }
            }
        }

        $(
            #[doc = $section_doc]
            #[derive(Debug, Clone, PartialEq)]
            pub struct $section_type {
                $( $(#[doc = $inner_doc])+ pub $inner: $inner_type, )+
            }

            impl Default for $section_type {
                fn default() -> Self {
                    Self { $( $inner: $inner_default, )+ }
                }
            }
        )*

        /// Every setting there is.
        pub static FIELDS: &[$crate::config::Field] = &[
            $( $crate::config::Field {
                key: stringify!($field),
                section: None,
                doc: concat!($($doc),+),
                derived: $crate::config::schema::optional!($($derived)?),
                placeholder: <$type as $crate::config::values::Setting>::PLACEHOLDER,
                read: |config, value| {
                    config.$field = $crate::config::schema::read!(value $($range)?)?;
                    Ok(())
                },
                show: |config| $crate::config::values::Setting::show(&config.$field),
            }, )+
            $( $( $crate::config::Field {
                key: concat!(stringify!($section), ".", stringify!($inner)),
                section: Some(stringify!($section)),
                doc: concat!($($inner_doc),+),
                derived: $crate::config::schema::optional!($($inner_derived)?),
                placeholder: <$inner_type as $crate::config::values::Setting>::PLACEHOLDER,
                read: |config, value| {
                    config.$section.$inner = $crate::config::schema::read!(value $($inner_range)?)?;
                    Ok(())
                },
                show: |config| $crate::config::values::Setting::show(&config.$section.$inner),
            }, )+ )*
        ];
    };
}
pub(super) use settings;

macro_rules! optional {
    () => {
        None
    };
    ($given:expr) => {
        Some($given)
    };
}
pub(super) use optional;

macro_rules! read {
    ($value:ident) => {
        $crate::config::values::Setting::read($value)
    };
    ($value:ident $range:expr) => {
        $crate::config::values::read_within($value, &$range)
    };
}
pub(super) use read;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::config::FIELDS;

    #[test]
    fn flags_and_variables_follow_from_the_key() {
        let field = FIELDS.iter().find(|field| field.key == "limits.connections_max").unwrap();
        assert_eq!(field.flag(), "limits-connections-max");
        assert_eq!(field.variable(), "DLOG_LIMITS_CONNECTIONS_MAX");
        assert_eq!(field.about(), "Most open connections; more are refused.");
    }

    #[test]
    fn no_two_settings_share_a_flag_or_a_variable() {
        // Names that mean something else on the command line or to clients.
        let taken = ["config", "help", "version", "server", "timeout", "json"];
        let mut flags: BTreeSet<_> = taken.map(str::to_owned).into();
        assert!(FIELDS.iter().all(|field| flags.insert(field.flag())));
        let mut variables: BTreeSet<_> = ["DLOG_CONFIG", "DLOG_SERVER", "DLOG_CA"].map(str::to_owned).into();
        assert!(FIELDS.iter().all(|field| variables.insert(field.variable())));
    }

    #[test]
    fn every_setting_says_what_it_is_for() {
        for field in FIELDS {
            assert!(field.about().ends_with('.') && field.about().len() > 20, "{}: {}", field.key, field.about());
            assert!(!field.key.ends_with("_ms") || field.about().contains("milliseconds"), "{}", field.key);
            assert!(!field.placeholder.is_empty(), "{}", field.key);
        }
    }
}
