//! A stream processor as an ordinary client: each flight joined with its airline's name, into a second topic.
//!
//! `cargo run -p meridian --example enrich_with_airline -- DEV_DIR [REGION]`, from the repository's root, reads `flights` to its end and
//! writes `flights-named`, which it makes. Run in the flights' home or in a region that mirrors them: the second topic lives there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use meridian::client::admin::NewTopic;
use meridian::client::batch::Record;
use meridian::client::fetch::{Consumer, Start};
use meridian::client::produce::Producer;
use meridian::client::{Cluster, Settings, TokenSource};
use meridian::dev::document::Document;
use serde_json::Value;

const NAMED: &str = "flights-named";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "dev-mesh".into());
    let cluster = connect(&dir, &arguments.next().unwrap_or_else(|| "us".into()))?;
    let csv = std::fs::read_to_string("data/airlines.csv")?;
    let airlines = airlines(&csv);
    let topic = NewTopic { name: NAMED.into(), partitions: Some(3), ..NewTopic::default() };
    match cluster.create_topic(&topic).await {
        Err(error) if error.kafka() != Some(ResponseError::TopicAlreadyExists) => return Err(error.into()),
        _ => {}
    }
    let mut consumer = Consumer::open(cluster.clone(), "flights", None, Start::Beginning).await?;
    let ends = consumer.end_offsets().await?;
    let mut producer = Producer::open(cluster, NAMED, Duration::from_millis(5)).await?;
    while ends.iter().any(|(partition, end)| consumer.positions()[partition] < *end) {
        for fetched in consumer.poll().await? {
            let value = named(fetched.record.value.as_deref().unwrap_or_default(), &airlines)?;
            // Key, headers and time stay, and so does the order within a key.
            producer.send(Record { value: Some(value.into()), ..fetched.record }, None).await?;
        }
    }
    let delivery = producer.finish().await;
    eprintln!("{} of {} flights named", delivery.acknowledged, delivery.given);
    delivery.error.map_or(Ok(()), |error| Err(error.into()))
}

/// `carrier,name` after a heading.
fn airlines(csv: &str) -> HashMap<&str, &str> {
    csv.lines().skip(1).filter_map(|line| line.split_once(',')).collect()
}

fn named(flight: &[u8], airlines: &HashMap<&str, &str>) -> Result<String, serde_json::Error> {
    let mut flight: Value = serde_json::from_slice(flight)?;
    let name = flight["carrier"].as_str().and_then(|carrier| airlines.get(carrier)).copied();
    if let Value::Object(fields) = &mut flight {
        fields.insert("airline".into(), name.into());
    }
    serde_json::to_string(&flight)
}

fn connect(dir: &str, region: &str) -> Result<Cluster, Box<dyn std::error::Error>> {
    let document = Document::read(Path::new(dir))?;
    let region = document.regions.get(region).ok_or("the mesh has no such region")?;
    Ok(Cluster::new(Settings {
        bootstrap: region.bootstrap.split(',').map(str::to_owned).collect(),
        tls: Arc::new(meridian::tls::client(meridian::tls::roots(&document.ca)?)?),
        token: TokenSource::File(document.admin_token.clone()),
        client_id: "enrich-with-airline".into(),
    }))
}
