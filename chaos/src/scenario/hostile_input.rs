//! Scenario 33: random bytes, frames cut short, and lengths that lie, at every listener of a node. Whoever listens must close, and go on
//! serving with the memory it had.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::client::Client;
use super::mesh::Mesh;
use super::{HOME, Plan, Report, ScenarioError, TOPIC, io};
use crate::check::Verdict;

const SEED: u64 = 33;
const ROUNDS: usize = 400;
/// By when a listener must have closed on junk: longer than any of its own deadlines for what says nothing.
const CLOSE_DEADLINE: Duration = Duration::from_secs(20);
/// What a node may have grown by afterwards, KiB.
const GROWTH_KIB_MAX: u64 = 48 * 1024;

pub async fn run(plan: Plan, client: Client) -> Result<Report, ScenarioError> {
    let mesh = Mesh::start(&plan.binary, &plan.dir, &[]).await?;
    mesh.create_topic(TOPIC, HOME, 1).await?;
    let listeners = mesh.listeners(HOME, 1)?;
    let process = mesh.pid(HOME, 1)?.ok_or_else(|| ScenarioError::Failed("node 1 does not run".into()))?;
    let mut broken = Vec::new();
    let mut random = StdRng::seed_from_u64(SEED);
    // Once before measuring, so that what is allocated once is not taken for growth.
    attack(&listeners, &mut random, ROUNDS / 8, &mut broken).await?;
    let before_kib = resident_kib(process)?;
    attack(&listeners, &mut random, ROUNDS, &mut broken).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after_kib = resident_kib(process)?;
    if after_kib > before_kib + GROWTH_KIB_MAX {
        broken.push(format!("node 1 grew from {before_kib} to {after_kib} KiB"));
    }
    if mesh.pid(HOME, 1)? != Some(process) {
        broken.push("node 1 is not the same process any more".into());
    }
    // Still serving, for real.
    client.digest(&mesh, HOME, TOPIC).await?;
    mesh.stop().await?;
    let observed = serde_json::json!({ "rounds": ROUNDS, "resident_kib_before": before_kib, "resident_kib_after": after_kib });
    let workload = serde_json::Value::Null;
    let report =
        Report { scenario: format!("{:?}", plan.scenario), faults: Vec::new(), workload, observed, verdict: Verdict::default(), broken };
    report.write(&plan)?;
    Ok(report)
}

/// Addresses of one node: three of TCP, one of UDP.
#[derive(Debug)]
pub struct Listeners {
    pub kafka: String,
    pub admin: String,
    pub peer: String,
    pub link: String,
}

async fn attack(listeners: &Listeners, random: &mut StdRng, rounds: usize, broken: &mut Vec<String>) -> Result<(), ScenarioError> {
    let udp = UdpSocket::bind("127.0.0.1:0").await.map_err(io("a UDP socket"))?;
    for round in 0..rounds {
        let junk = junk(random, round);
        udp.send_to(&junk[..junk.len().min(1400)], &listeners.link).await.map_err(io("the link listener"))?;
        let tcp = [&listeners.kafka, &listeners.admin, &listeners.peer];
        let address = tcp[round % tcp.len()];
        if !closes(address, &junk).await? {
            broken.push(format!("{address} did not close on junk of round {round}, seed {SEED}"));
        }
    }
    Ok(())
}

/// Junk of several kinds: noise, a Kafka frame with a lie for a length, half a TLS record, half an HTTP request.
fn junk(random: &mut StdRng, round: usize) -> Vec<u8> {
    let mut noise = vec![0; random.random_range(1..4096)];
    random.fill(noise.as_mut_slice());
    let lead: &[u8] = match round % 6 {
        0 => &[],
        1 => &[0x7f, 0xff, 0xff, 0xff],
        2 => &[0x16, 3, 1, 0xff, 0xff, 1],
        3 => &[0x16, 3, 3, 0x40, 0x00, 1, 0, 0x3f, 0xfc],
        4 => b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\nX: ",
        _ => &[0, 0, 0, 30, 0, 18, 0, 4],
    };
    [lead, &noise].concat()
}

/// Sends junk, ends its half, and waits for the other's.
async fn closes(address: &str, junk: &[u8]) -> Result<bool, ScenarioError> {
    let mut stream = TcpStream::connect(address).await.map_err(io(format!("{address} accepts no more")))?;
    // A reset while junk is on its way is a close, too.
    let _ = stream.write_all(junk).await;
    let _ = stream.shutdown().await;
    let mut sink = [0; 4096];
    let drained = async {
        while let Ok(count) = stream.read(&mut sink).await {
            if count == 0 {
                break;
            }
        }
    };
    Ok(timeout(CLOSE_DEADLINE, drained).await.is_ok())
}

fn resident_kib(process: i32) -> Result<u64, ScenarioError> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).map_err(io("the node's process"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    kib.ok_or_else(|| ScenarioError::Failed("the node's process tells no resident memory".into()))
}
