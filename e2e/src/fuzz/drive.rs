//! Sends the cases, cleans up after those that succeed, judges the answers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use proto::cri as v1;
use tokio::sync::Mutex;
use tonic::{Code, Status};

use super::Dice;
use super::base::Things;
use super::plan::Plan;
use crate::cri::Cri;
use crate::node::Node;
use crate::raw;

/// A call that takes longer hangs. A pull may ask a registry that is not there.
const HANG: Duration = Duration::from_secs(30);

/// What a run was like.
#[derive(Debug, Default)]
pub struct Tally {
    /// Cases sent.
    pub cases: usize,
    /// Cases that were accepted.
    pub accepted: usize,
    /// What is wrong, one line each.
    pub faults: Vec<String>,
}

/// The seed of this run, printed so that it can be repeated.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("BULKHEAD_FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let mut bytes = [0; 4];
        // Without randomness a fixed seed is as good.
        getrandom::fill(&mut bytes).ok();
        u64::from(u32::from_le_bytes(bytes))
    })
}

/// Sends `cases` cases, spread over `methods` by how much each has to change.
///
/// # Errors
/// Where the surroundings fail; what the server does wrong is in the answer.
pub async fn run(node: &Node, methods: &[MethodDescriptor], cases: usize, seed: u64) -> Result<Tally> {
    println!("BULKHEAD_FUZZ_SEED={seed}: {cases} cases for {} methods", methods.len());
    let things = Things::new(node).await?;
    let plans: Vec<Plan> = methods
        .iter()
        .map(|method| Plan::new(method, node.dir(), seed))
        .collect();
    let queue = Mutex::new(order(&plans, cases, seed).into_iter());
    let only = std::env::var("BULKHEAD_FUZZ_ONLY").ok();
    let tally = Mutex::new(Tally::default());
    let worker = async || -> Result<()> {
        while let Some((method, number)) = { queue.lock().await.next() } {
            let name = format!("{}:{number}", methods[method].name());
            if only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let (accepted, fault) = case(node, &things, &methods[method], (&plans[method], number)).await?;
            let mut tally = tally.lock().await;
            tally.cases += 1;
            tally.accepted += usize::from(accepted);
            if let Some(fault) = fault {
                eprintln!("fuzz: {name}: {fault}");
                tally.faults.push(format!("{name}: {fault}"));
                ensure!(tally.faults.len() < 40, "too many faults, see above");
            }
        }
        Ok(())
    };
    // So many calls are under way at once.
    tokio::try_join!(worker(), worker(), worker(), worker())?;
    let done = std::mem::take(&mut *tally.lock().await);
    println!(
        "{} cases, {} accepted, {} faults",
        done.cases,
        done.accepted,
        done.faults.len()
    );
    Ok(done)
}

/// Every single change of every method once, as far as `cases` reaches, then chance.
fn order(plans: &[Plan], cases: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut all: Vec<(usize, usize)> = plans
        .iter()
        .enumerate()
        .flat_map(|(method, plan)| (0..plan.singles().max(1)).map(move |number| (method, number)))
        .collect();
    let mut dice = Dice::new(seed);
    let weights: usize = all.len();
    let mut next: Vec<usize> = plans.iter().map(Plan::singles).collect();
    while all.len() < cases {
        // A method with more to change gets more of the rest.
        let (method, _) = all[dice.below(weights)];
        all.push((method, next[method]));
        next[method] += 1;
    }
    all
}

async fn case(
    node: &Node,
    things: &Things,
    method: &MethodDescriptor,
    (plan, number): (&Plan, usize),
) -> Result<(bool, Option<String>)> {
    let mut message = things
        .base(node, method)
        .await
        .with_context(|| format!("a request for {}", method.name()))?;
    let change = plan.apply(number, &mut message);
    let bytes = message.encode_to_vec();
    let began = Instant::now();
    let answer = tokio::time::timeout(HANG, send(&things.bed.cri, method, &bytes)).await;
    let Ok(answer) = answer else {
        return Ok((false, Some(format!("{change}: no answer after {HANG:?}"))));
    };
    let accepted = answer.is_ok();
    let mut fault = judge(&answer).map(|what| format!("{change}: {what}"));
    if let (Ok(answer), true) = (&answer, began.elapsed() < HANG)
        && let Err(error) = undo(things, method, &message, answer, number).await
    {
        fault = Some(format!("{change}: what was made cannot be removed: {error:#}"));
    }
    Ok((accepted, fault))
}

async fn send(cri: &Cri, method: &MethodDescriptor, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    if method.is_server_streaming() {
        let wait = Duration::from_millis(30);
        return Ok(raw::first(&cri.channel, &path, bytes, wait)
            .await?
            .map(|message| message.to_vec())
            .unwrap_or_default());
    }
    Ok(raw::call(&cri.channel, &path, bytes).await?.to_vec())
}

/// What is wrong with an answer. UNKNOWN and INTERNAL say that the server is at fault, and it
/// is the request that is odd.
fn judge(answer: &Result<Vec<u8>, Status>) -> Option<String> {
    let status = answer.as_ref().err()?;
    let text: String = status.message().chars().take(300).collect();
    match status.code() {
        Code::Unknown | Code::Internal => Some(format!("{:?}: {text}", status.code())),
        _ if status.message().is_empty() => Some(format!("{:?} without a message", status.code())),
        _ if status.message().len() > 16 << 10 => Some(format!("a message of {} bytes", status.message().len())),
        _ => None,
    }
}

/// Removes what a request made, having used it where that is worth a try.
async fn undo(
    things: &Things,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    answer: &[u8],
    number: usize,
) -> Result<()> {
    let cri = &things.bed.cri;
    match method.name() {
        "RunPodSandbox" => {
            let id = v1::RunPodSandboxResponse::decode(answer)?.pod_sandbox_id;
            ensure!(!id.is_empty(), "an empty id");
            cri.pod_status(&id).await?;
            cri.stop_pod(&id).await?;
            cri.remove_pod(&id).await?;
        }
        "CreateContainer" => {
            let id = v1::CreateContainerResponse::decode(answer)?.container_id;
            ensure!(!id.is_empty(), "an empty id");
            if number.is_multiple_of(4) {
                // What is wrong may show only now; then it must be said as well.
                let started = cri.start(&id).await.map(|()| Vec::new());
                if let Some(what) = judge(&started) {
                    bail!("StartContainer: {what}");
                }
            }
            cri.container_status(&id).await?;
            cri.remove(&id).await?;
        }
        "StopContainer" => {
            let typed = v1::StopContainerRequest::decode(request.encode_to_vec().as_slice())?;
            cri.remove(&typed.container_id).await?;
        }
        _ => {}
    }
    Ok(())
}
