//! `dlog log set`

use dlog_client::Client;
use dlog_metadata::state::LogAttributes;

use super::attributes::AttributeChanges;
use super::create::check_namespace;
use crate::args::LogSetArgs;
use crate::failure::Failure;
use crate::output::human::counted;
use crate::output::print;

pub(crate) async fn run(client: &Client, args: &LogSetArgs) -> Result<(), Failure> {
    check_namespace(&args.log)?;
    let changes = changes(args)?;
    let before = client.log(&args.log).await?;
    let after = changes.apply(before.attributes.clone())?;
    client.set_attributes(&args.log, changes.into_map()).await?;
    let mut said = differences(&before.attributes, &after);
    if let Some(partitions) = args.partitions.filter(|asked| *asked as usize != before.partitions.len()) {
        client.create_partitions(&args.log, partitions).await?;
        said.push(format!("{}, before: {}", counted(partitions.into(), "partition"), before.partitions.len()));
    }
    if said.is_empty() {
        said.push("nothing changed".to_owned());
    }
    let lines: String = said.iter().map(|line| format!("{}: {line}\n", args.log)).collect();
    print(&lines)
}

fn changes(args: &LogSetArgs) -> Result<AttributeChanges, Failure> {
    let LogSetArgs { replication, write_quorum, attributes, unset, partitions, .. } = args;
    let flags = replication.is_some() || write_quorum.is_some() || partitions.is_some();
    if !flags && attributes.is_empty() && unset.is_empty() {
        return Err(Failure::usage(format!("nothing is to be changed about {}", args.log))
            .hint("say what, as in --attr retention.ms=86400000; see --help"));
    }
    let changes = AttributeChanges::default();
    changes.flag("replication_factor", *replication).flag("write_quorum", *write_quorum).set(attributes)?.unset(unset)
}

/// A line for each attribute that is not as it was: others may follow from those that were given.
fn differences(before: &LogAttributes, after: &LogAttributes) -> Vec<String> {
    let keys = before.entries().chain(after.entries()).map(|(key, _)| key.to_owned());
    let keys: std::collections::BTreeSet<_> = keys.collect();
    let shown = |value: Option<String>| value.unwrap_or_else(|| "not set".to_owned());
    let changed = |key: String| {
        let (was, is) = (before.get(&key), after.get(&key));
        (was != is).then(|| format!("{key} is {}, before: {}", shown(is), shown(was)))
    };
    keys.into_iter().filter_map(changed).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: LogSetArgs,
    }

    fn outcome(line: &str) -> Result<Vec<String>, String> {
        let words = ["set", "demo/lines"].into_iter().chain(line.split_whitespace());
        let mut before = LogAttributes::replicated(3);
        before.extra.insert("retention.ms".to_owned(), "1000".to_owned());
        let changes = changes(&Line::try_parse_from(words).unwrap().args).map_err(|failure| failure.to_string())?;
        let after = changes.apply(before.clone()).map_err(|failure| failure.to_string())?;
        Ok(differences(&before, &after))
    }

    #[test]
    fn what_changes_is_said_with_what_follows_from_it() {
        assert_eq!(outcome("--unset retention.ms").unwrap(), ["retention.ms is not set, before: 1000"]);
        assert_eq!(outcome("--attr x.a=1").unwrap(), ["x.a is 1, before: not set"]);
        assert_eq!(
            outcome("--write-quorum 3").unwrap(),
            ["read_quorum is 1, before: 2", "write_quorum is 3, before: 2"]
        );
        assert_eq!(outcome("--attr retention.ms=1000").unwrap(), [""; 0]);
    }

    #[test]
    fn what_cannot_be_is_refused_here() {
        assert!(outcome("").unwrap_err().contains("nothing is to be changed"));
        assert!(outcome("--attr retention.sm=1").unwrap_err().contains("did you mean retention.ms?"));
        assert!(outcome("--attr x.a=1 --unset x.a").unwrap_err().contains("x.a is given twice"));
        assert!(outcome("--write-quorum 4").unwrap_err().contains("write quorum must be 1 to the replication (3)"));
    }
}
