//! Driver `exec`: the operator's own commands, as `docs/ref/cloud.md` describes them.

use std::process::Stdio;

use mtxfleet_leader::cloud::{CloudAnswer, CloudCall, CloudError};
use mtxfleet_wire::{ClusterName, Role};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::Listing;

/// Of the contract; raised when an old program would misread a call.
const VERSION: u32 = 1;

/// An answer is not longer: some thousand instances.
const ANSWER_MAX: u64 = 1 << 20;
/// What is kept of standard error.
const ERROR_MAX: u64 = 16 << 10;

/// `EX_TEMPFAIL` and `EX_NOPERM` of sysexits(3).
const THROTTLED: i32 = 75;
const REFUSED: i32 = 77;

#[derive(Debug, Clone)]
pub(super) struct Exec {
    cluster: ClusterName,
    list: Vec<String>,
    grow: Vec<String>,
    end: Vec<String>,
}

/// The line on standard input.
#[derive(Debug, Serialize)]
struct Asked<'a> {
    version: u32,
    cluster: &'a ClusterName,
    role: Role,
    #[serde(flatten)]
    call: &'a CloudCall,
}

/// What a program did.
struct Ran {
    code: Option<i32>,
    output: Vec<u8>,
    error: String,
}

impl Exec {
    pub(super) const fn new(cluster: ClusterName, list: Vec<String>, grow: Vec<String>, end: Vec<String>) -> Self {
        Self { cluster, list, grow, end }
    }

    pub(super) async fn call(&self, role: Role, call: &CloudCall) -> Result<CloudAnswer, CloudError> {
        let command = match call {
            CloudCall::Describe => &self.list,
            CloudCall::SetDesired { .. } => &self.grow,
            CloudCall::End { .. } => &self.end,
        };
        let asked = Asked { version: VERSION, cluster: &self.cluster, role, call };
        let mut line = serde_json::to_vec(&asked).map_err(|error| CloudError::Failed(error.to_string()))?;
        line.push(b'\n');
        let shown = command.join(" ");
        let ran = run(command, &line).await.map_err(|error| CloudError::Failed(format!("{shown}: {error}")))?;
        if !ran.error.is_empty() {
            tracing::warn!(command = %shown, "{}", ran.error.trim_end());
        }
        let last = ran.error.lines().map(str::trim).rfind(|line| !line.is_empty());
        let said = last.map_or_else(|| format!("{shown} says no reason"), str::to_owned);
        match ran.code {
            Some(0) => {}
            Some(THROTTLED) => return Err(CloudError::Throttled(said)),
            Some(REFUSED) => return Err(CloudError::Refused(said)),
            Some(code) => return Err(CloudError::Failed(format!("{said} (exit code {code})"))),
            None => return Err(CloudError::Failed(format!("{shown} was killed"))),
        }
        if *call != CloudCall::Describe {
            return Ok(CloudAnswer::Done);
        }
        if ran.output.len() as u64 > ANSWER_MAX {
            return Err(CloudError::Failed(format!("{shown} answers more than 1 MiB")));
        }
        // A program was asked for one role and need not repeat it.
        let mut answer: serde_json::Value = serde_json::from_slice(&ran.output)
            .map_err(|error| CloudError::Failed(format!("{shown} answers no JSON: {error}")))?;
        if let Some(fields) = answer.as_object_mut() {
            fields.entry("role").or_insert_with(|| role.as_str().into());
        }
        let listing: Listing = serde_json::from_value(answer).map_err(|error| {
            CloudError::Failed(format!("{shown} answers another JSON than docs/ref/cloud.md says: {error}"))
        })?;
        listing.whole(role)
    }
}

/// Kills the whole process group when it is dropped before the program has ended: a call that took too long.
struct Guard(Option<Pid>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn run(command: &[String], input: &[u8]) -> std::io::Result<Ran> {
    let (program, args) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut guard = Guard(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
    let (mut stdin, output, error) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(stdin) = &mut stdin {
            // A program that does not read what it is told may do so.
            _ = stdin.write_all(input).await;
        }
        drop(stdin);
    };
    let ((), output, error, code) =
        tokio::join!(tell, bounded(output, ANSWER_MAX + 1), bounded(error, ERROR_MAX), ended(&mut child, &mut guard));
    Ok(Ran { code: code?, output: output?, error: String::from_utf8_lossy(&error?).into_owned() })
}

async fn ended(child: &mut Child, guard: &mut Guard) -> std::io::Result<Option<i32>> {
    let status = child.wait().await?;
    // Its number may be another's from now on.
    guard.0 = None;
    Ok(status.code())
}

/// Reads to the end, and keeps as much of it as `most`.
async fn bounded(from: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return Ok(kept) };
    (&mut from).take(most).read_to_end(&mut kept).await?;
    // The rest is read away, or the program would wait for ever.
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}
