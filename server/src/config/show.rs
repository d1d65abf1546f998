//! The settings that hold, as `dlog config show` prints them.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Map, Value, json};

use super::load::Effective;
use super::{FIELDS, Field};

impl Effective {
    /// A line per setting: key, value, where it comes from.
    pub fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["KEY", "VALUE", "SOURCE"]);
        for field in FIELDS {
            table.add_row([field.key.to_owned(), (field.show)(&self.config).text, self.origin(field.key).to_string()]);
        }
        table.lines().map(|line| line.trim().to_owned() + "\n").collect()
    }

    /// `{"node_id": {"value": 1, "source": "default"}, …}`
    pub fn to_json(&self) -> Value {
        let row = |field: &Field| {
            let value =
                json!({ "value": (field.show)(&self.config).json, "source": self.origin(field.key).to_string() });
            (field.key.to_owned(), value)
        };
        Value::Object(FIELDS.iter().map(row).collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::tests::loaded;

    #[test]
    fn each_setting_is_listed_with_its_source() {
        let effective = loaded(&["--node-id", "2", "--cluster-nodes", "1,2", "--segment-bytes", "256MiB"]).unwrap();
        let table = effective.to_table();
        assert_eq!(table.lines().count(), 1 + FIELDS.len(), "{table}");
        let row = |key: &str| {
            let line = table.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("KEY"), "KEY VALUE SOURCE");
        assert_eq!(row("node_id"), "node_id 2 --node-id");
        assert_eq!(row("listen"), "listen localhost:9093 default, from cluster_nodes");
        assert_eq!(row("segment_bytes"), "segment_bytes 256MiB --segment-bytes");
        assert_eq!(row("limits.connections_max"), "limits.connections_max 16384 default");

        let json = effective.to_json();
        assert_eq!(json["segment_bytes"], json!({ "value": 256 << 20, "source": "--segment-bytes" }));
        assert_eq!(json["roles"]["value"], json!(["metadata", "sequencer", "storage"]));
        assert_eq!(json["cluster_nodes"]["value"], json!({ "1": "localhost:9092", "2": "localhost:9093" }));
        assert_eq!(json.as_object().unwrap().len(), FIELDS.len());
    }
}
