//! A swarm of processes that watch each other, and what they say of one that is crashed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::member::micros;

const STARTED_WITHIN: Duration = Duration::from_secs(120);
/// Between two crashes: samples are new again, and nobody is asked about any more.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub enum Kind {
    Agents { lose_in_1000: u32 },
    Memberlist { program: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// SIGKILL.
    Kill,
    /// SIGSTOP: silent, with its socket open. Killed when all have noticed.
    Stop,
}

/// Verdicts on nodes that live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrong {
    pub suspected: usize,
    pub dead: usize,
}

/// What the others said of one that crashed: word, seconds after the crash; infinite from those that never said it.
#[derive(Debug, Default)]
pub struct Outcome(Vec<(String, f64)>);

impl Outcome {
    /// In order; as many as said it.
    pub fn verdicts(&self, word: &str) -> Vec<f64> {
        let mut times: Vec<f64> = self.0.iter().filter(|(said, _)| said == word).map(|(_, at)| *at).collect();
        times.sort_by(f64::total_cmp);
        times
    }
}

struct Said {
    by: usize,
    word: String,
    about: String,
    at: u128,
}

pub struct Swarm {
    kind: Kind,
    children: Vec<Child>,
    seeds: Vec<String>,
    said: Receiver<Said>,
    to_said: Sender<Said>,
    /// Whom each of them takes for alive.
    alive: Vec<BTreeSet<String>>,
    wrong: Wrong,
    next_victim: usize,
}

impl Swarm {
    pub fn start(kind: Kind, nodes: usize) -> Result<Self> {
        let (to_said, said) = mpsc::channel();
        let mut swarm = Self {
            kind,
            children: Vec::new(),
            seeds: Vec::new(),
            said,
            to_said,
            alive: vec![BTreeSet::new(); nodes],
            wrong: Wrong::default(),
            next_victim: 0,
        };
        for number in 0..nodes {
            let child = swarm.spawn(number)?;
            swarm.children.push(child);
        }
        swarm.until_all_see_all()?;
        Ok(swarm)
    }

    /// Crashes the next one in turn, waits until all others said `word` (and `dead`, of agents), and starts it again.
    pub fn crash(&mut self, how: Crash, word: &str, within: Duration) -> Result<Outcome> {
        self.rest(SETTLE);
        let victim = self.next_victim % self.children.len();
        self.next_victim += 1;
        let at = micros();
        match how {
            Crash::Kill => self.children[victim].kill()?,
            Crash::Stop => self.signal(victim, "STOP")?,
        }
        let mut outcome: BTreeMap<(String, usize), f64> = BTreeMap::new();
        let others = || (0..self.alive.len()).filter(move |other| *other != victim);
        // Who took it for silent by mistake, just before, does not say so again.
        for other in others().filter(|other| !self.alive[*other].contains(&name(victim))) {
            eprintln!("{} suspected {} before it crashed", name(other), name(victim));
            outcome.insert(("silent".to_owned(), other), 0.0);
        }
        let others: Vec<usize> = others().collect();
        let end = Instant::now() + within;
        let lack = |outcome: &BTreeMap<(String, usize), f64>, word: &str| -> Vec<usize> {
            others.iter().copied().filter(|other| !outcome.contains_key(&(word.to_owned(), *other))).collect()
        };
        while !lack(&outcome, word).is_empty() || !lack(&outcome, "dead").is_empty() {
            let Some(said) = self.hear(end, Some(victim))? else {
                for word in [word, "dead"] {
                    let lack = lack(&outcome, word);
                    eprintln!("{} is not {word} to {lack:?} within {within:?}", name(victim));
                    outcome.extend(lack.into_iter().map(|by| ((word.to_owned(), by), f64::INFINITY)));
                }
                break;
            };
            if said.about != name(victim) || said.by == victim {
                continue;
            }
            let seconds = said.at.saturating_sub(at) as f64 / 1e6;
            if said.word == "alive" {
                // A word of it that was on its way for long.
                outcome.remove(&("silent".to_owned(), said.by));
            } else {
                outcome.entry((said.word, said.by)).or_insert(seconds);
            }
        }
        self.children[victim].kill()?;
        self.children[victim].wait()?;
        self.alive[victim].clear();
        self.children[victim] = self.spawn(victim)?;
        self.until_all_see_all()?;
        Ok(Outcome(outcome.into_iter().map(|((word, _), at)| (word, at)).collect()))
    }

    /// Stops the next one in turn for a while.
    pub fn stall(&mut self, time: Duration) -> Result<()> {
        let victim = self.next_victim % self.children.len();
        self.next_victim += 1;
        self.signal(victim, "STOP")?;
        let suspected = self.wrong.suspected;
        self.rest(time);
        self.signal(victim, "CONT")?;
        self.until_all_see_all()?;
        self.rest(SETTLE * 2);
        // That it was suspected is right.
        self.wrong.suspected = suspected;
        Ok(())
    }

    /// Lets time pass.
    pub fn rest(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(Some(_)) = self.hear(end, None) {}
    }

    pub const fn wrong(&self) -> Wrong {
        self.wrong
    }

    fn until_all_see_all(&mut self) -> Result<()> {
        let others = self.children.len() - 1;
        let end = Instant::now() + STARTED_WITHIN;
        while self.alive.iter().any(|alive| alive.len() < others) {
            let known: Vec<usize> = self.alive.iter().map(BTreeSet::len).collect();
            ensure!(self.hear(end, None)?.is_some(), "not all see all within {STARTED_WITHIN:?}: {known:?}");
        }
        Ok(())
    }

    /// The next line, or `None` at `end`.
    fn hear(&mut self, end: Instant, victim: Option<usize>) -> Result<Option<Said>> {
        let said = match self.said.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("all members have ended"),
        };
        let about_victim = victim.is_some_and(|victim| said.about == name(victim) || said.by == victim);
        if said.word == "alive" {
            if said.about != name(said.by) {
                self.alive[said.by].insert(said.about.clone());
            }
        } else {
            self.alive[said.by].remove(&said.about);
            if !about_victim {
                eprintln!("{} takes {} for {}, and it lives", name(said.by), said.about, said.word);
                self.wrong.suspected += usize::from(said.word == "silent");
                self.wrong.dead += usize::from(said.word == "dead");
            }
        }
        Ok(Some(said))
    }

    fn spawn(&mut self, number: usize) -> Result<Child> {
        let mut command = match &self.kind {
            Kind::Agents { lose_in_1000 } => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg(name(number)).arg(lose_in_1000.to_string());
                command
            }
            Kind::Memberlist { program } => {
                let mut command = Command::new(program);
                command.arg(name(number));
                command
            }
        };
        let seeds: Vec<&String> = self.seeds.iter().enumerate().filter(|(n, _)| *n != number).map(|(_, s)| s).collect();
        command.args(seeds.iter().take(3)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a member cannot be started")?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        // memberlist says first that it sees itself.
        let address = loop {
            let line = lines.next().context("a member ended at once")??;
            if let Some(address) = line.strip_prefix("up ") {
                break address.to_owned();
            }
        };
        if number < self.seeds.len() {
            self.seeds[number] = address;
        } else {
            self.seeds.push(address);
        }
        let to_said = self.to_said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut words = line.split(' ');
                let (Some(word), Some(about), Some(at)) = (words.next(), words.next(), words.next()) else { continue };
                let at = at.parse().unwrap_or_default();
                if to_said.send(Said { by: number, word: word.into(), about: about.into(), at }).is_err() {
                    break;
                }
            }
        });
        Ok(child)
    }

    fn signal(&self, number: usize, signal: &str) -> Result<()> {
        let pid = self.children[number].id().to_string();
        let done = Command::new("kill").args([&format!("-{signal}"), &pid]).status()?;
        ensure!(done.success(), "kill -{signal} {pid} failed");
        Ok(())
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn name(number: usize) -> String {
    format!("n{number}")
}

/// The program of `benches/memberlist`, built in a temporary folder, or why it is not there.
pub fn memberlist() -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("memberlist");
    let folder = std::env::temp_dir().join(format!("mtxfleet-memberlist-{}", std::process::id()));
    let run = |command: &mut Command| -> Result<(), String> {
        let done = command.output().map_err(|error| format!("{command:?}: {error}; install Go"))?;
        let said = String::from_utf8_lossy(&done.stderr);
        if done.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
    };
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    for file in ["go.mod", "main.go"] {
        std::fs::copy(source.join(file), folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
    }
    run(Command::new("go").args(["mod", "tidy"]).current_dir(&folder))?;
    run(Command::new("go").args(["build", "-o", "memberlist-bench", "."]).current_dir(&folder))?;
    Ok(folder.join("memberlist-bench"))
}
