//! What the figures mean for DLog.

use super::method::Method;
use super::{GROUPS, Results, group_name};

const MIB: usize = 1 << 20;
/// Less is within what a disk does from one minute to the next.
const NOTICEABLE: f64 = 1.15;

/// Sentences.
pub(super) fn of(results: &Results) -> Vec<String> {
    // Medians: a few slow groups say more of the moment than of the disk.
    let median = |method, len| Some(results.get(method, len)?.percentile(50).as_secs_f64()).filter(|time| *time > 0.0);
    let rate = |method, len| Some(len as f64 / 1e6 / median(method, len)?);
    let ratio = |a, b, len| Some(rate(a, len)? / rate(b, len)?);
    let mut advice = Vec::new();
    if let Some(gain) = ratio(Method::PwriteRecycled, Method::PwriteFallocated, MIB) {
        advice.push(if gain >= NOTICEABLE {
            format!(
                "recycled and zero-filled segments take groups of 1 MiB {gain:.1} times as fast as fallocated ones: DLog's \
                 default (files are used again, and zeros are written 32 MiB ahead of the log) is right here"
            )
        } else {
            format!(
                "fallocated segments are as fast as recycled ones here ({gain:.2}): writing zeros ahead of the log gains \
                 nothing, and costs little"
            )
        });
    }
    if let Some(gain) = ratio(Method::PwriteRecycled, Method::MapRecycled, 64 << 10) {
        advice.push(format!(
            "groups of 64 KiB by pwrite are {gain:.2} times as fast as through a map. DLog writes by pwrite in any case, and reads \
             through maps: an error of the disk is an error of a write, and a signal to whoever writes through a map"
        ));
    }
    let direct = [4 << 10, 64 << 10, MIB]
        .map(|len| ratio(Method::DirectDsync, Method::PwriteRecycled, len).map(|gain| (len, gain)));
    let gains: Vec<String> =
        direct.iter().flatten().map(|(len, gain)| format!("{gain:.2} at {}", group_name(*len))).collect();
    if !gains.is_empty() {
        advice.push(format!(
            "O_DIRECT|O_DSYNC against pwrite and fdatasync: {}. DLog goes through the page cache all the same: readers near \
             the tail find there what was just written, and a group may begin inside of a page",
            gains.join(", ")
        ));
    }
    if let Some(best) = GROUPS.iter().filter_map(|len| rate(Method::PwriteRecycled, *len)).reduce(f64::max) {
        let enough =
            GROUPS.iter().find(|len| rate(Method::PwriteRecycled, **len).is_some_and(|rate| rate >= 0.9 * best));
        if let Some(enough) = enough {
            advice.push(format!(
                "groups of {} reach nine tenths of the best rate ({best:.0} MB/s); DLog's groups are up to 4 MiB, written in \
                 pieces of 1 MiB",
                group_name(*enough)
            ));
        }
    }
    advice
}
