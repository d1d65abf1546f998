//! `dlog copyset show`

use dlog_client::{Client, Copies};
use dlog_proto::{Lsn, ShardId};
use serde_json::{Value, json};

use super::number_of;
use crate::args::CopysetShowArgs;
use crate::failure::Failure;
use crate::output::table::Columns;
use crate::output::{print, print_json};

pub(crate) async fn run(client: &Client, args: &CopysetShowArgs) -> Result<(), Failure> {
    let partition = &args.partition;
    let number = number_of(client, partition).await?;
    let copies = client.copies(&partition.log, number, args.lsn).await?;
    let copies = copies.ok_or_else(|| {
        let failure = Failure::new(format!("no shard that could be asked has {} of {partition}", args.lsn));
        failure.hint(format!("`dlog epoch show {partition}` shows which epochs there are, and where they end"))
    })?;
    if args.output.json { print_json(&to_json(args.lsn, &copies)) } else { print(&to_text(args.lsn, &copies)) }
}

fn names(shards: impl IntoIterator<Item = ShardId>) -> Vec<String> {
    shards.into_iter().map(|shard| shard.to_string()).collect()
}

fn holders(copies: &Copies) -> Vec<String> {
    names(copies.holders.iter().map(|holder| holder.shard))
}

fn to_text(lsn: Lsn, copies: &Copies) -> String {
    let Copies { first, last, placement, silent, .. } = copies;
    let mut rows = vec![
        ("lsn", lsn.to_string()),
        ("block", format!("{first} to {last}")),
        ("copyset", names(placement.copyset.shards().iter().copied()).join(" ")),
        ("wave", format!("{} of {}", placement.version.wave, placement.version.writer_epoch)),
        ("holders", holders(copies).join(" ")),
    ];
    if !silent.is_empty() {
        rows.push(("not asked", format!("{} (cannot be reached)", names(silent.iter().copied()).join(" "))));
    }
    Columns::pairs(rows)
}

/// `copyset` is what the newest placement says; `holders` are the shards that have the block by their own word.
fn to_json(lsn: Lsn, copies: &Copies) -> Value {
    json!({
        "lsn": lsn.to_string(),
        "block": { "first": copies.first.to_string(), "last": copies.last.to_string() },
        "copyset": names(copies.placement.copyset.shards().iter().copied()),
        "holders": holders(copies),
        "silent": names(copies.silent.iter().copied()),
        "wave": copies.placement.version.wave,
        "writer_epoch": copies.placement.version.writer_epoch.0,
    })
}

#[cfg(test)]
mod tests {
    use dlog_client::CopyHolder;
    use dlog_proto::block::{Copyset, Placement, PlacementVersion};
    use dlog_proto::{Epoch, Esn};

    use super::*;

    fn copies() -> Copies {
        let placement = Placement {
            version: PlacementVersion { writer_epoch: Epoch(2), wave: 3 },
            copyset: Copyset::new([ShardId::new(1, 0), ShardId::new(3, 1)]).unwrap(),
            acked: Esn(9),
            settled: Esn(8),
        };
        let holder = CopyHolder { shard: ShardId::new(3, 1), placement: placement.clone() };
        let lsn = |text: &str| text.parse().unwrap();
        Copies {
            first: lsn("e2n5"),
            last: lsn("e2n9"),
            placement,
            holders: vec![holder],
            silent: vec![ShardId::new(1, 0)],
        }
    }

    #[test]
    fn what_should_be_and_what_is_are_told_apart() {
        let lsn = "e2n6".parse().unwrap();
        let json = to_json(lsn, &copies());
        assert_eq!((&json["lsn"], &json["wave"]), (&json!("e2n6"), &json!(3)));
        assert_eq!(json["copyset"], json!(["n1s0", "n3s1"]));
        assert_eq!((&json["holders"], &json["silent"]), (&json!(["n3s1"]), &json!(["n1s0"])));
        let text = to_text(lsn, &copies());
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "lsn e2n6",
                "block e2n5 to e2n9",
                "copyset n1s0 n3s1",
                "wave 3 of e2",
                "holders n3s1",
                "not asked n1s0 (cannot be reached)"
            ]
        );
    }
}
