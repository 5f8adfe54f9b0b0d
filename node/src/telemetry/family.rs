//! Metrics as values: families of samples, and their text form (Prometheus exposition format 0.0.4).

use std::borrow::Cow;
use std::fmt::Write;

/// `Content-Type` of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    Gauge,
    /// Samples are `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Samples are `_sum` and `_count`.
    Summary,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        }
    }
}

/// A label and its value.
pub type Label = (&'static str, Cow<'static, str>);

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Behind the family's name: empty, or one of a histogram's or summary's.
    pub suffix: &'static str,
    pub labels: Vec<Label>,
    pub value: f64,
}

/// One metric with all its label combinations.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

impl Family {
    pub fn new(name: &'static str, kind: Kind, help: &'static str) -> Family {
        Family { name, help, kind, samples: Vec::new() }
    }

    /// A family with one number.
    pub fn single(name: &'static str, kind: Kind, help: &'static str, value: f64) -> Family {
        let mut family = Family::new(name, kind, help);
        family.push(Vec::new(), value);
        family
    }

    pub fn push(&mut self, labels: Vec<Label>, value: f64) {
        self.push_part("", labels, value);
    }

    pub fn push_part(&mut self, suffix: &'static str, labels: Vec<Label>, value: f64) {
        self.samples.push(Sample { suffix, labels, value });
    }
}

/// The families as Prometheus reads them. Families without samples are left out.
pub fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let Family { name, help, kind, samples } = family;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
        let _ = writeln!(text, "# TYPE {name} {}", kind.name());
        for sample in samples {
            text.push_str(name);
            text.push_str(sample.suffix);
            write_labels(&mut text, &sample.labels);
            text.push(' ');
            write_value(&mut text, sample.value);
            text.push('\n');
        }
    }
    text
}

fn write_labels(text: &mut String, labels: &[Label]) {
    for (position, (name, value)) in labels.iter().enumerate() {
        text.push_str(if position == 0 { "{" } else { "," });
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

fn write_value(text: &mut String, value: f64) {
    let _ = match value {
        f64::INFINITY => write!(text, "+Inf"),
        f64::NEG_INFINITY => write!(text, "-Inf"),
        value => write!(text, "{value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_help_and_numbers_are_escaped_as_prometheus_reads_them() {
        let mut family = Family::new("m_total", Kind::Counter, "one\\two\nthree \"four\"");
        family.push(vec![("topic", "a\\b\"c\nd, {e}".into()), ("partition", "0".into())], 1e15);
        family.push(vec![], f64::INFINITY);
        family.push(vec![], f64::NAN);
        family.push(vec![], 0.25);
        let expected = "# HELP m_total one\\\\two\\nthree \"four\"\n# TYPE m_total counter\n\
             m_total{topic=\"a\\\\b\\\"c\\nd, {e}\",partition=\"0\"} 1000000000000000\nm_total +Inf\nm_total NaN\nm_total 0.25\n";
        assert_eq!(text(&[family, Family::new("empty", Kind::Gauge, "not written")]), expected);
    }
}
