//! What was measured.

use std::time::Duration;

use dlog_proto::LogId;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::append_phase::Appended;
use super::read_phase::Read;
use crate::args::BenchAppendArgs;
use crate::output::human;
use crate::output::table::Columns;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) args: BenchAppendArgs,
    pub(super) log: LogId,
    pub(super) appended: Appended,
    pub(super) read: Read,
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];

fn at(latency: &Histogram<u64>, percentile: f64) -> Duration {
    Duration::from_nanos(latency.value_at_percentile(percentile))
}

impl Report {
    fn phases(&self) -> [(&'static str, u64, Duration); 2] {
        let (appended, read) = (&self.appended, &self.read);
        [("append", appended.records, appended.elapsed), ("read", read.records, read.elapsed)]
    }

    fn title(&self) -> String {
        let args = &self.args;
        let pace = match args.rate {
            Some(rate) => format!("{} records/s", human::count(rate.into())),
            None => format!("up to {} in flight", human::count(args.acks_inflight.into())),
        };
        format!(
            "{} records of {}, {}, replication {}, {}, {} protocol, {pace}",
            human::count(self.appended.records),
            human::bytes(args.record_bytes.into()),
            human::counted(args.partitions.into(), "partition"),
            args.replication,
            args.durability.name(),
            args.protocol.name(),
        )
    }

    pub(super) fn to_text(&self) -> String {
        let mut rates = Columns::new(["", ">RECORDS/S", ">MB/S", ">TIME"]);
        for (phase, records, elapsed) in self.phases() {
            let rate = human::per_second(records, elapsed);
            let megabytes = rate * f64::from(self.args.record_bytes) / 1e6;
            rates.row([
                phase.to_owned(),
                human::count(rate as u64),
                format!("{megabytes:.1}"),
                human::duration(elapsed),
            ]);
        }
        let mut latencies = Columns::new(["", ">P50", ">P99", ">P99.9", ">MAX"]);
        let latency = PERCENTILES.map(|(_, percentile)| human::duration(at(&self.appended.latency, percentile)));
        let [p50, p99, p999, max] = latency;
        latencies.row(["acknowledged after".to_owned(), p50, p99, p999, max]);
        let (title, rates, latencies) = (self.title(), rates.into_text(), latencies.into_text());
        format!("{title}\n\n{rates}\n{latencies}\nread back: every record once, in order, as it was written\n")
    }

    pub(super) fn to_json(&self) -> Value {
        let args = &self.args;
        let phase = |records: u64, elapsed: Duration| {
            let rate = human::per_second(records, elapsed);
            json!({
                "records": records,
                "seconds": elapsed.as_secs_f64(),
                "records_per_second": rate,
                "bytes_per_second": rate * f64::from(args.record_bytes),
            })
        };
        let [append, read] = self.phases().map(|(_, records, elapsed)| phase(records, elapsed));
        let latency = PERCENTILES.map(|(name, percentile)| {
            (name.to_owned(), json!(at(&self.appended.latency, percentile).as_secs_f64() * 1e6))
        });
        json!({
            "log": self.log.to_string(),
            "protocol": args.protocol.name(),
            "record_bytes": args.record_bytes,
            "partitions": args.partitions,
            "replication": args.replication,
            "durability": args.durability.name(),
            "acks_inflight": args.acks_inflight,
            "batch_bytes": args.batch_bytes,
            "linger_ms": args.linger,
            "compression": args.compression.to_string(),
            "rate": args.rate,
            "append": append,
            "append_latency_us": Value::Object(latency.into_iter().collect()),
            "read": read,
            "verified": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::bench::workload::PlaceHash;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchAppendArgs,
    }

    fn report() -> Report {
        let mut latency = Histogram::new_with_bounds(1, 1_000_000_000, 3).unwrap();
        (1..=1000).for_each(|i| latency.record(i * 1000).unwrap());
        let appended = Appended {
            records: 1000,
            elapsed: Duration::from_millis(500),
            latency,
            acknowledged: vec![PlaceHash::default()],
        };
        let read = Read { records: 1001, elapsed: Duration::from_millis(100) };
        let args = Line::parse_from(["bench", "--replication", "3"]).args;
        Report { args, log: "bench/append-1".parse().unwrap(), appended, read }
    }

    #[test]
    fn people_see_rates_and_latencies() {
        let text = report().to_text();
        let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(text.starts_with(
            "1,000 records of 100 B, 1 partition, replication 3, sync, native protocol, up to 16,384 in flight\n"
        ));
        assert!(words.contains(&vec!["append", "2,000", "0.2", "500", "ms"]), "{text}");
        assert!(words.contains(&vec!["read", "10,010", "1.0", "100", "ms"]), "{text}");
        assert!(
            words.contains(&vec!["acknowledged", "after", "500", "µs", "990", "µs", "1.00", "ms", "1.00", "ms"]),
            "{text}"
        );
    }

    #[test]
    fn programs_get_numbers() {
        let json = report().to_json();
        assert_eq!((&json["append"]["records_per_second"], &json["verified"]), (&json!(2000.0), &json!(true)));
        let p99 = json["append_latency_us"]["p99"].as_f64().unwrap();
        assert!((989.0..=991.0).contains(&p99), "{p99}");
        assert_eq!((&json["rate"], &json["protocol"]), (&Value::Null, &json!("native")));
    }
}
