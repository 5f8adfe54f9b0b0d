//! Scenario 31, in part: who may not connect does not, who may not read does not, in any region; and an ACL removed at home cuts those who
//! are reading, everywhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::mesh::Mesh;
use super::{HOME, Plan, Report, ScenarioError, TOPIC, catch_up, io};
use crate::check::Verdict;

/// From the removal of the ACL to the refusal of an open reader.
const CUT_MAX: Duration = Duration::from_secs(5);
/// Nodes tolerate clocks that differ by half a minute: a token that lived a second is refused after this.
const EXPIRED_AFTER: Duration = Duration::from_secs(33);
const READER: &str = "ann";
const OUTSIDER: &str = "mallory";

pub async fn run(plan: Plan, client: Client) -> Result<Report, ScenarioError> {
    let mesh = Mesh::start(&plan.binary, &plan.dir, &[]).await?;
    let mut broken = Vec::new();
    let tokens = Tokens::make(&mesh, &plan.dir).await?;
    let expired_at = Instant::now() + EXPIRED_AFTER;
    mesh.create_topic(TOPIC, HOME, 1).await?;
    let principal = format!("User:{READER}");
    mesh.command(&["acl", "add", "--region", HOME, "--allow", "--principal", &principal, "--operation", "read", "--topic", TOPIC]).await?;
    let loaded = client.load(&mesh, HOME, TOPIC, &plan.flights).await?;
    catch_up(&mesh, TOPIC, &mut broken).await?;
    let outsiders = outsiders(&mesh, &client, &tokens, &mut broken).await?;
    let cuts = cut_readers(&mesh, &client, &tokens, &principal, &mut broken).await?;
    tokio::time::sleep_until(expired_at).await;
    let connections = connections(&mesh, &client, &tokens, &mut broken).await?;
    mesh.stop().await?;
    let observed = serde_json::json!({
        "records": loaded.acked, "refused_without_read": outsiders, "ms_from_removal_to_refusal": cuts, "connections": connections,
    });
    let workload = serde_json::Value::Null;
    let report =
        Report { scenario: format!("{:?}", plan.scenario), faults: Vec::new(), workload, observed, verdict: Verdict::default(), broken };
    report.write(&plan)?;
    Ok(report)
}

/// Files with a token each.
struct Tokens {
    reader: PathBuf,
    outsider: PathBuf,
    /// By what is wrong with them.
    bad: BTreeMap<&'static str, PathBuf>,
}

impl Tokens {
    async fn make(mesh: &Mesh, dir: &Path) -> Result<Tokens, ScenarioError> {
        let write = |name: &str, token: &str| {
            let path = dir.join(format!("{name}.jwt"));
            std::fs::write(&path, token.trim()).map(|()| path).map_err(io("a token"))
        };
        let reader = mesh.command(&["token", "issue", "--sub", READER]).await?;
        let outsider = mesh.command(&["token", "issue", "--sub", OUTSIDER]).await?;
        let mut bad = BTreeMap::new();
        let expired = mesh.command(&["token", "issue", "--sub", READER, "--ttl", "1s"]).await?;
        bad.insert("expired", write("expired", &expired)?);
        let elsewhere = mesh.command(&["token", "issue", "--sub", READER, "--aud", "somebody-else"]).await?;
        bad.insert("wrong audience", write("wrong-audience", &elsewhere)?);
        let parts: Vec<&str> = reader.trim().split('.').collect();
        let [header, claims, signature] = parts.as_slice() else { return Err(ScenarioError::Failed("no token was issued".into())) };
        // {"alg":"none","typ":"JWT"}
        bad.insert("alg none", write("alg-none", &format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}."))?);
        let forged = format!("{}{}", if signature.starts_with('A') { "B" } else { "A" }, signature.get(1..).unwrap_or_default());
        bad.insert("wrongly signed", write("wrongly-signed", &format!("{header}.{claims}.{forged}"))?);
        Ok(Tokens { reader: write("reader", &reader)?, outsider: write("outsider", &outsider)?, bad })
    }
}

/// Without READ: refused by name, in every region.
async fn outsiders(mesh: &Mesh, client: &Client, tokens: &Tokens, broken: &mut Vec<String>) -> Result<Vec<String>, ScenarioError> {
    let mut refused = Vec::new();
    for region in mesh.regions() {
        let mut watching = client.watch(mesh, region, TOPIC, &tokens.outsider, Duration::from_secs(15))?;
        let watched = watching.finish().await?;
        if watched.read > 0 || watched.refused.is_none() {
            broken.push(format!("{OUTSIDER} in {region}: {watched:?}"));
        }
        refused.push(format!("{region}: {}", watched.refused.unwrap_or_default()));
    }
    Ok(refused)
}

/// Readers at work in every region lose their right at home; milliseconds until each was refused.
async fn cut_readers(
    mesh: &Mesh,
    client: &Client,
    tokens: &Tokens,
    principal: &str,
    broken: &mut Vec<String>,
) -> Result<BTreeMap<String, u128>, ScenarioError> {
    let mut watching = Vec::new();
    for region in mesh.regions() {
        let mut one = client.watch(mesh, region, TOPIC, &tokens.reader, Duration::from_secs(60))?;
        one.reading().await?;
        watching.push((region.to_owned(), one));
    }
    // Everything is read by now, or soon: what the removal must cut are fetches that wait.
    tokio::time::sleep(Duration::from_secs(3)).await;
    mesh.command(&["acl", "remove", "--region", HOME, "--principal", principal, "--topic", TOPIC]).await?;
    let removed = Instant::now();
    let mut cuts = BTreeMap::new();
    for (region, mut one) in watching {
        let watched = one.finish().await?;
        let took = removed.elapsed();
        if watched.refused.is_none() || watched.read == 0 || took > CUT_MAX {
            broken.push(format!("{READER} in {region} after the ACL was removed: {watched:?}, {} ms", took.as_millis()));
        }
        cuts.insert(region, took.as_millis());
    }
    Ok(cuts)
}

/// Bad tokens cannot connect; a good one can, so that the refusals mean something.
async fn connections(
    mesh: &Mesh,
    client: &Client,
    tokens: &Tokens,
    broken: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, ScenarioError> {
    let mut told = BTreeMap::new();
    for region in mesh.regions() {
        let good = client.connect(mesh, region, &tokens.reader).await?;
        if !good.connected {
            broken.push(format!("a good token cannot connect in {region}: {good:?}"));
        }
        for (what, token) in &tokens.bad {
            let bad = client.connect(mesh, region, token).await?;
            if bad.connected || bad.error.is_none() {
                broken.push(format!("a token that is {what} in {region}: {bad:?}"));
            }
            told.insert(format!("{region}, {what}"), bad.error.unwrap_or_default());
        }
    }
    Ok(told)
}
