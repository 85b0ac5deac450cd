//! The metrics as text: OpenMetrics 1.0 as prometheus-client writes it, and Prometheus' older text format for what reads only that (the node
//! exporter's textfile collector, `promtool check metrics`).
//!
//! Guarantees: both say the same values; the older one is the newer one with the names that it wants in its `HELP` and `TYPE` lines.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
pub use trimtab_model::metric::NAMES;
use trimtab_model::metric::{Kind, Metric, Point, metrics};
use trimtab_model::status::Status;

/// What [`open`] is.
pub const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What [`classic`] is.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of a document, as a collector of their own: they are made when they are asked for.
#[derive(Debug)]
struct Of(Vec<Metric>);

impl Collector for Of {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for metric in &self.0 {
            family(metric, &mut encoder)?;
        }
        Ok(())
    }
}

fn family(metric: &Metric, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    // The library gives a name its ending.
    let name = metric.name.strip_suffix(ending(metric.kind)).unwrap_or(metric.name);
    let help = metric.help;
    let kind = if metric.kind == Kind::Counter { MetricType::Counter } else { MetricType::Gauge };
    if metric.kind == Kind::Info {
        let mut of_kind = encoder.encode_descriptor(name, help, None, MetricType::Info)?;
        for Point { labels, .. } in &metric.points {
            of_kind.encode_info(labels)?;
        }
        return Ok(());
    }
    let mut of_kind = encoder.encode_descriptor(name, help, None, kind)?;
    for Point { labels, value } in &metric.points {
        if labels.is_empty() {
            one(metric.kind, *value, &mut of_kind)?;
        } else {
            one(metric.kind, *value, &mut of_kind.encode_family(labels)?)?;
        }
    }
    Ok(())
}

fn one(kind: Kind, value: f64, to: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    type NoExemplar<'a> = Option<&'a Exemplar<[(&'static str, &'static str); 0], f64>>;
    match kind {
        Kind::Counter => to.encode_counter(&value, NoExemplar::None),
        Kind::Gauge | Kind::Info => to.encode_gauge(&value),
    }
}

fn ending(kind: Kind) -> &'static str {
    match kind {
        Kind::Gauge => "",
        Kind::Counter => "_total",
        Kind::Info => "_info",
    }
}

/// As OpenMetrics 1.0.
pub fn open(status: &Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Of(metrics(status))));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("because writing to a string does not fail");
    out
}

/// As Prometheus' text format 0.0.4.
pub fn classic(status: &Status) -> String {
    let mut out = String::new();
    for line in open(status).lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) => {
                let full =
                    NAMES.iter().find(|full| full.strip_suffix("_total").or(full.strip_suffix("_info")).unwrap_or(full) == name);
                let rest = if what == "TYPE" && rest == "info" { "gauge" } else { rest };
                out.push_str(&format!("# {what} {} {rest}", full.unwrap_or(&name)));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
