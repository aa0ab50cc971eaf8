//! Prints the results of benchmarks as tables.

use mesh_bench::{
    ChangeRow, CniRow, ConnectRow, Distribution, EndpointCost, EventCost, ExportCost, FillCost,
    HostileCost, JudgeCost, PartitionDetection, PolicyCost, Propagation, ReconnectCost, SourceCost,
    TableMemory, Takeover,
};

use crate::output;

mod mesh;

pub(super) use mesh::mesh;

pub(super) fn connect(rows: &[ConnectRow]) -> anyhow::Result<()> {
    output::line("connect(), CPU time of the caller, nanoseconds")?;
    let header = [
        "BY",
        "TRANSPORT",
        "SERVICES",
        "CONNECTS",
        "DIRECT",
        "THROUGH A SERVICE",
        "RATIO",
        "ONE MORE SERVICE, µs",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.way.into(),
            row.transport.into(),
            row.services.to_string(),
            row.connects.to_string(),
            format!("{:.0}", row.direct_nanos),
            format!("{:.0}", row.through_nanos),
            format!("{:.3}", row.ratio),
            format!("{:.0}", row.one_more_micros),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn exported(rows: &[ExportCost]) -> anyhow::Result<()> {
    output::line("clustermesh export, milliseconds from its start to its end")?;
    let header = [
        "WRITTEN AS",
        "PODS",
        "A SERVICE",
        "MB",
        "KEYS",
        "READ AS OBJECTS",
        "ALL",
        "FEWER PODS",
        "ALL OF THEM",
        "RATIO",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.form.into(),
            row.pods.to_string(),
            row.pods_a_service.to_string(),
            format!("{:.1}", row.bytes as f64 / 1e6),
            row.keys.to_string(),
            format!("{:.0}", row.decode_millis),
            format!("{:.0}", row.millis),
            row.fewer_pods.to_string(),
            format!("{:.0}", row.fewer_millis),
            format!("{:.1}", row.ratio),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn changed(rows: &[ChangeRow]) -> anyhow::Result<()> {
    output::line("change of one backend of a service, CPU time of an agent, microseconds")?;
    let header = [
        "EXPORTED AS",
        "BACKENDS",
        "BYTES",
        "CHANGES",
        "AGENT",
        "AGENT, 100 BACKENDS",
        "RATIO",
        "WRITES",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.form.into(),
            row.backends.to_string(),
            row.bytes.to_string(),
            row.changes.to_string(),
            format!("{:.0}", row.micros),
            format!("{:.0}", row.reference_micros),
            format!("{:.2}", row.ratio),
            format!("{:.1}", row.writes),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn filled(row: &FillCost) -> anyhow::Result<()> {
    output::line("filling the tables, CPU time")?;
    let header = [
        "SERVICES",
        "EACH, µs",
        "A PLAIN UPDATE, µs",
        "RATIO",
        "WRITES EACH",
        "ALL, ms",
        "ELAPSED, ms",
    ];
    let cells = vec![
        row.services.to_string(),
        format!("{:.2}", row.micros),
        format!("{:.2}", row.bare_micros),
        format!("{:.2}", row.ratio),
        format!("{:.1}", row.writes),
        format!("{:.0}", row.millis),
        format!("{:.0}", row.elapsed_millis),
    ];
    Ok(output::table(&header, [cells])?)
}

pub(super) fn taken(rows: &[TableMemory]) -> anyhow::Result<()> {
    output::line("kernel memory of the tables, megabytes")?;
    let header = [
        "ROOM FOR SERVICES",
        "FOR BACKENDS",
        "FOR SLOTS",
        "SERVICES",
        "HEADERS",
        "BACKENDS",
        "SLOTS",
        "OTHERS",
        "ALL, EMPTY",
        "ALL, HALF FULL",
    ];
    let cells = rows.iter().map(|row| {
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        vec![
            row.services.to_string(),
            row.backends.to_string(),
            row.slots.to_string(),
            megabytes(row.services_bytes),
            megabytes(row.headers_bytes),
            megabytes(row.backends_bytes),
            megabytes(row.slots_bytes),
            megabytes(row.other_bytes),
            megabytes(row.empty_bytes),
            megabytes(row.filled_bytes),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn endpoints(rows: &[EndpointCost]) -> anyhow::Result<()> {
    output::line("an agent with another cluster's endpoints, less one without any")?;
    let header = [
        "ENDPOINTS",
        "BYTES IN ETCD",
        "RESIDENT",
        "EACH",
        "START, MS",
        "ETCDCTL GET, MS",
        "RATIO",
        "IDLE, MS/S",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.endpoints.to_string(),
            row.bytes.to_string(),
            row.resident.to_string(),
            format!("{:.0}", row.resident_each),
            row.start_millis.to_string(),
            row.get_millis.to_string(),
            format!("{:.2}", row.ratio),
            format!("{:.1}", row.idle_millis),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn hostile(rows: &[HostileCost]) -> anyhow::Result<()> {
    output::line("an agent with a hostile peer; megabytes, less those before the attack")?;
    let header = ["SENT", "BUDGET", "MOST RESIDENT", "ALLOWED", "OF A CORE", "QUARANTINED"];
    let cells = rows.iter().map(|row| {
        let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
        vec![
            row.sends.to_owned(),
            megabytes(row.budget),
            megabytes(row.resident),
            megabytes(row.allowed),
            format!("{:.2}", row.core_share),
            if row.quarantined { "yes" } else { "no" }.to_owned(),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn reconnected(row: &ReconnectCost) -> anyhow::Result<()> {
    output::line("an agent that reconnects after a partition")?;
    let header = ["ENDPOINTS", "EXCHANGED", "BYTES READ", "BYTES OF ALL", "RATIO", "TABLE CHANGES"];
    let cells = vec![
        row.endpoints.to_string(),
        row.exchanged.to_string(),
        row.received.to_string(),
        row.all.to_string(),
        format!("{:.4}", row.ratio),
        row.table_changes.to_string(),
    ];
    Ok(output::table(&header, [cells])?)
}

pub(super) fn source(rows: &[SourceCost]) -> anyhow::Result<()> {
    output::line("what pods of an API server cost an apiserver")?;
    let header = [
        "PODS",
        "JSON OF ONE",
        "RESIDENT",
        "EACH",
        "RATIO",
        "CHANGES",
        "CPU OF A CHANGE, µs",
        "CHANGES/s",
        "CPU",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.pods.to_string(),
            row.json.to_string(),
            row.resident.to_string(),
            format!("{:.0}", row.resident_each),
            format!("{:.2}", row.ratio),
            row.changes.to_string(),
            format!("{:.0}", row.change_micros),
            format!("{:.0}", row.rate),
            format!("{:.1} %", row.rate_cores * 100.0),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn judge(rows: &[JudgeCost]) -> anyhow::Result<()> {
    output::line("what judging costs a packet in the kernel, nanoseconds")?;
    let header = ["ADDRESSES", "RULES", "NOT JUDGED", "FIRST", "OF A FLOW", "RATIO"];
    let cells = rows.iter().map(|row| {
        vec![
            row.addresses.to_string(),
            row.rules.to_string(),
            format!("{:.0}", row.other_nanos),
            format!("{:.0}", row.first_nanos),
            format!("{:.0}", row.flow_nanos),
            format!("{:.2}", row.ratio),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn policy(rows: &[PolicyCost]) -> anyhow::Result<()> {
    output::line(
        "what policies cost an agent: CPU time of an identity in microseconds, and memory",
    )?;
    let header = ["IDENTITIES", "POLICIES", "RESIDENT, MB", "IDENTITY", "COMPARED", "RATIO"];
    let cells = rows.iter().map(|row| {
        vec![
            row.identities.to_string(),
            row.policies.to_string(),
            format!("{:.1}", row.resident as f64 / 1e6),
            format!("{:.1}", row.identity_micros),
            format!("{:.1}", row.compared_micros),
            format!("{:.2}", row.ratio),
        ]
    });
    output::table(&header, cells)?;
    output::line("a policy more, by what its selector matches, milliseconds")?;
    let header = ["IDENTITIES", "FEW", "ALL", "NOT IN", "ABSENT", "RANGES", "THESE"];
    let cells = rows.iter().map(|row| {
        vec![
            row.identities.to_string(),
            format!("{:.3}", row.few_millis),
            format!("{:.1}", row.all_millis),
            format!("{:.1}", row.not_in_millis),
            format!("{:.1}", row.absent_millis),
            row.cidrs.to_string(),
            format!("{:.1}", row.cidrs_millis),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn events(row: &EventCost) -> anyhow::Result<()> {
    output::line("CPU time of an etcd for each event and reader, microseconds")?;
    let header = ["READERS", "EVENTS", "WRITING", "AGENTS", "PLAIN WATCHES", "RATIO"];
    let cells = vec![
        row.readers.to_string(),
        row.events.to_string(),
        format!("{:.2}", row.write_micros),
        format!("{:.2}", row.agent_micros),
        format!("{:.2}", row.watch_micros),
        format!("{:.2}", row.ratio),
    ];
    Ok(output::table(&header, [cells])?)
}

pub(super) fn propagation(rows: &[Propagation]) -> anyhow::Result<()> {
    output::line("change of a manifest in one cluster, milliseconds until it arrives (p50 / p99)")?;
    let header =
        ["OTHER SERVICES", "CHANGES", "PLAIN WATCH", "KERNEL ENTRY", "AFTER THE WATCH", "RATIO"];
    let cells = rows.iter().map(|row| {
        vec![
            row.services.to_string(),
            row.kernel.count.to_string(),
            milliseconds(row.watch),
            milliseconds(row.kernel),
            milliseconds(row.after_watch),
            format!("{:.3}", row.ratio),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn takeover(rows: &[Takeover]) -> anyhow::Result<()> {
    output::line(
        "a replica is killed while a manifest changes, milliseconds until the change arrives from the other (p50 / p99)",
    )?;
    let header = [
        "OTHER SERVICES",
        "KILLS",
        "PLAIN WATCH",
        "KERNEL ENTRY",
        "RATIO",
        "BYTES READ THEN",
        "BYTES WHEN AT REST",
        "WRITES TOO MANY",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.services.to_string(),
            row.kernel.count.to_string(),
            milliseconds(row.watch),
            milliseconds(row.kernel),
            format!("{:.3}", row.ratio),
            row.bytes_read.to_string(),
            row.bytes_settled.to_string(),
            row.needless_writes.to_string(),
        ]
    });
    Ok(output::table(&header, cells)?)
}

pub(super) fn cut(row: &PartitionDetection) -> anyhow::Result<()> {
    output::line("a cluster becomes unreachable under load, milliseconds (p50 / p90 / p99 / max)")?;
    let of = |nanos: u64| nanos as f64 / 1e6;
    let four = |d: Distribution| {
        let [p50, p90, p99, max] = [d.p50_nanos, d.p90_nanos, d.p99_nanos, d.max_nanos].map(of);
        format!("{p50:.0} / {p90:.0} / {p99:.0} / {max:.0}")
    };
    let header =
        ["CUTS", "WRITTEN", "LAST CONNECTION LED THERE", "THREE PROBES", "RATIO", "MADE", "LOST"];
    let cells = vec![
        row.avoided.count.to_string(),
        four(row.written),
        four(row.avoided),
        format!("{:.0}", of(row.three_probes_nanos)),
        format!("{:.2}", row.ratio),
        (row.connections - row.lost).to_string(),
        row.lost.to_string(),
    ];
    Ok(output::table(&header, [cells])?)
}

pub(super) fn cni(rows: &[CniRow]) -> anyhow::Result<()> {
    output::line("attaching a pod, milliseconds (p50 / p99)")?;
    let cells = rows.iter().map(|row| {
        vec![
            row.called.into(),
            row.with.count.to_string(),
            milliseconds(row.without),
            milliseconds(row.with),
            milliseconds(row.ours),
        ]
    });
    Ok(output::table(&["CALLED", "PODS EACH", "WITHOUT OURS", "WITH OURS", "OURS ALONE"], cells)?)
}

fn milliseconds(distribution: Distribution) -> String {
    let of = |nanos: u64| nanos as f64 / 1e6;
    format!("{:.2} / {:.2}", of(distribution.p50_nanos), of(distribution.p99_nanos))
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::output::samples;

    pub(super) const DISTRIBUTION: Distribution = Distribution {
        count: 100,
        p50_nanos: 1_500_000,
        p90_nanos: 2_000_000,
        p99_nanos: 2_500_000,
        max_nanos: 3_000_000,
    };

    #[test]
    fn figures_fit() {
        let distribution = DISTRIBUTION;
        let (without, with, ours) = (distribution, distribution, distribution);
        samples::fits(80, || cni(&[CniRow { called: "at once", without, with, ours }]));
        let (watch, kernel, after_watch) = (distribution, distribution, distribution);
        let row = Propagation { services: 1_000, watch, kernel, after_watch, ratio: 1.5 };
        samples::fits(80, || propagation(slice::from_ref(&row)));
        let row = ConnectRow {
            way: "kube-proxy's rules",
            transport: "TCP, IPv6",
            services: 100_000,
            connects: 6_000,
            direct_nanos: 40_000.0,
            through_nanos: 45_000.0,
            ratio: 1.125,
            one_more_micros: 9_000.0,
        };
        samples::fits(100, || connect(slice::from_ref(&row)));
        let row = PolicyCost {
            identities: 25_000,
            policies: 1_000,
            cidrs: 10_000,
            resident: 60_000_000,
            identity_micros: 1.5,
            compared_micros: 9.0,
            ratio: 0.17,
            few_millis: 0.005,
            all_millis: 20.5,
            not_in_millis: 18.5,
            absent_millis: 19.5,
            cidrs_millis: 5.5,
        };
        samples::fits(80, || policy(slice::from_ref(&row)));
        let row = JudgeCost {
            addresses: 100_000,
            rules: 512,
            other_nanos: 12.0,
            first_nanos: 9_000.0,
            flow_nanos: 150.0,
            ratio: 12.5,
        };
        samples::fits(80, || judge(slice::from_ref(&row)));
        let row = EventCost {
            readers: 8,
            events: 10_000,
            write_micros: 100.25,
            agent_micros: 12.5,
            watch_micros: 11.5,
            ratio: 1.09,
        };
        samples::fits(80, || events(&row));
    }
}
