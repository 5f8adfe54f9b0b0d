//! A stream processor as an ordinary client: an alert when three departures of one carrier are over an hour late within half an hour.
//!
//! `cargo run -p meridian --example sliding_window_alert -- DEV_DIR [REGION]` reads `flights` to its end and prints the alerts.
//! Windows go by event time: when a departure was scheduled, not when its record arrived.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use meridian::client::fetch::{Consumer, Start};
use meridian::client::timestamp::{format_ms, rfc3339_ms};
use meridian::client::{Cluster, Settings, TokenSource};
use meridian::dev::document::Document;

const WINDOW_MS: i64 = 30 * 60 * 1_000;
const LATE_MIN: i64 = 60;
const ALERT_AT: usize = 3;

#[derive(serde::Deserialize)]
struct Flight {
    scheduled: String,
    carrier: String,
    dep_delay: Option<i64>,
}

/// Late departures of each carrier within the window, oldest first.
#[derive(Default)]
struct Windows(HashMap<String, VecDeque<i64>>);

impl Windows {
    /// True when this departure makes the window full; the window then starts anew, so that one bad half hour is one alert.
    fn add(&mut self, carrier: &str, at_ms: i64) -> bool {
        let window = self.0.entry(carrier.to_owned()).or_default();
        while window.front().is_some_and(|oldest| at_ms - oldest > WINDOW_MS) {
            window.pop_front();
        }
        window.push_back(at_ms);
        let is_full = window.len() >= ALERT_AT;
        if is_full {
            window.clear();
        }
        is_full
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "dev-mesh".into());
    let cluster = connect(&dir, &arguments.next().unwrap_or_else(|| "us".into()))?;
    let mut consumer = Consumer::open(cluster, "flights", None, Start::Beginning).await?;
    let ends = consumer.end_offsets().await?;
    let mut windows = Windows::default();
    let mut alerts = 0;
    while ends.iter().any(|(partition, end)| consumer.positions()[partition] < *end) {
        // A carrier is a key, so its flights are in one partition and arrive in order.
        for fetched in consumer.poll().await? {
            let flight: Flight = serde_json::from_slice(fetched.record.value.as_deref().unwrap_or_default())?;
            let Some(at_ms) = rfc3339_ms(&flight.scheduled).filter(|_| flight.dep_delay.is_some_and(|delay| delay > LATE_MIN)) else {
                continue;
            };
            if windows.add(&flight.carrier, at_ms) {
                alerts += 1;
                println!("{}: {ALERT_AT} departures of {} over an hour late within 30 minutes", format_ms(at_ms), flight.carrier);
            }
        }
    }
    eprintln!("{alerts} alerts");
    Ok(())
}

fn connect(dir: &str, region: &str) -> Result<Cluster, Box<dyn std::error::Error>> {
    let document = Document::read(Path::new(dir))?;
    let region = document.regions.get(region).ok_or("the mesh has no such region")?;
    Ok(Cluster::new(Settings {
        bootstrap: region.bootstrap.split(',').map(str::to_owned).collect(),
        tls: Arc::new(meridian::tls::client(meridian::tls::roots(&document.ca)?)?),
        token: TokenSource::File(document.admin_token.clone()),
        client_id: "sliding-window-alert".into(),
    }))
}
