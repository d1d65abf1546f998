//! Attributes as they are given on the command line.

use std::collections::BTreeMap;

use dlog_metadata::state::{AttributeError, LogAttributes};

use crate::args::Attribute;
use crate::failure::Failure;

/// Least length of a log's longest batch.
const MESSAGE_BYTES_MIN: u32 = 1024;

/// What is to be changed; `None` takes an attribute back to its default.
#[derive(Debug, Default)]
pub(super) struct AttributeChanges(BTreeMap<String, Option<String>>);

impl AttributeChanges {
    /// From a flag of its own.
    pub(super) fn flag(mut self, key: &str, value: Option<u8>) -> Self {
        self.0.extend(value.map(|value| (key.to_owned(), Some(value.to_string()))));
        self
    }

    pub(super) fn set(mut self, attributes: &[Attribute]) -> Result<Self, Failure> {
        attributes.iter().try_for_each(|Attribute { key, value }| self.insert(key, Some(value.clone())))?;
        Ok(self)
    }

    pub(super) fn unset(mut self, keys: &[String]) -> Result<Self, Failure> {
        keys.iter().try_for_each(|key| self.insert(key, None))?;
        Ok(self)
    }

    fn insert(&mut self, key: &str, value: Option<String>) -> Result<(), Failure> {
        match self.0.insert(key.to_owned(), value) {
            Some(_) => Err(Failure::usage(format!("attribute {key} is given twice"))),
            None => Ok(()),
        }
    }

    /// What comes of it.
    ///
    /// # Errors
    ///
    /// If there is no such attribute, or it cannot be this.
    pub(super) fn apply(&self, mut attributes: LogAttributes) -> Result<LogAttributes, Failure> {
        attributes.update(&self.0).map_err(|error| refused(&error))?;
        match attributes.max_message_bytes() {
            Some(max) if max < MESSAGE_BYTES_MIN => Err(Failure::usage(format!(
                "max.message.bytes must be at least {MESSAGE_BYTES_MIN}, not {max}: below that hardly a record fits into a batch"
            ))),
            _ => Ok(attributes),
        }
    }

    pub(super) fn into_map(self) -> BTreeMap<String, Option<String>> {
        self.0
    }
}

fn refused(error: &AttributeError) -> Failure {
    let AttributeError::Unknown { key } = error else { return Failure::usage(error.to_string()) };
    let failure = Failure::usage(format!("there is no attribute '{key}'"));
    match near(key) {
        Some(name) => failure.hint(format!("did you mean {name}? Keys that start with 'x.' are yours to choose")),
        None => {
            let keys: Vec<_> = LogAttributes::keys().collect();
            failure.hint(format!("there are {}; keys that start with 'x.' are yours to choose", keys.join(", ")))
        }
    }
}

/// The attribute that was probably meant.
fn near(key: &str) -> Option<&'static str> {
    let alike = |known: &'static str| (strsim::jaro_winkler(key, known), known);
    let (likeness, known) = LogAttributes::keys().map(alike).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.85).then_some(known)
}
