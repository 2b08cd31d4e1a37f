//! Child processes that never outlive this one.
//!
//! Every child asks the kernel to be killed when its parent goes (`PR_SET_PDEATHSIG`), so nothing is left behind even
//! when this process is killed with SIGKILL. The kernel means the *thread* that forked by "parent", and test threads
//! end with their test, so all children are started by one thread that lives as long as the process does.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long a part may take to end after SIGTERM before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// What is shown of a part's log when it dies or is waited for in vain.
const LOG_TAIL_BYTES: u64 = 3_000;

/// How to start a part, kept for starting it again.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What the part is called in messages, and its log file.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

impl Recipe {
    #[must_use]
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), args: Vec::new(), env: Vec::new() }
    }

    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts the part; what it prints is appended to `NAME.log` in `log_dir`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be run.
    pub fn start(self, log_dir: &Path) -> Result<Process> {
        let log = log_dir.join(format!("{}.log", self.name));
        let child = spawn(&self, &log)?;
        Ok(Process { recipe: self, log, child, ended: None })
    }
}

/// A part of the lab that is a process of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Process {
    recipe: Recipe,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// # Errors
    /// When it has ended; the message holds the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => bail!("{} ended ({}); its log ends:\n{}", self.name(), describe(status), self.log_tail()),
        }
    }

    /// Sends a signal. Does nothing when the process has ended: its pid may be somebody else's by now.
    pub fn signal(&mut self, signal: libc::c_int) {
        if self.ended().is_none() {
            #[allow(unsafe_code, reason = "kill(2) has no safe wrapper in std; the pid is a child not waited for yet")]
            // SAFETY: takes two integers, touches no memory.
            let _ = unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait_ended(STOP_WITHIN);
    }

    /// Stands still from now on, as a machine that hangs: connections stay open and nothing answers.
    pub fn freeze(&mut self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGTERM, a bounded wait, then SIGKILL.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        // A frozen process does not see SIGTERM before it goes on.
        self.signal(libc::SIGCONT);
        if !self.wait_ended(STOP_WITHIN) {
            self.kill();
        }
    }

    /// Stops it if it runs, and starts it again with the same arguments.
    ///
    /// # Errors
    /// As [`Recipe::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.child = spawn(&self.recipe, &self.log)?;
        self.ended = None;
        Ok(())
    }

    /// The last lines that it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// False when it still runs after `bound`.
    fn wait_ended(&mut self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => status.to_string(),
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn spawn(recipe: &Recipe, log: &Path) -> Result<Child> {
    let out = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(&recipe.program);
    command
        .args(&recipe.args)
        .envs(recipe.env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        // Ctrl-C is for the demo, which then stops its parts in order.
        .process_group(0);
    die_with_parent(&mut command);
    spawner().spawn(command).with_context(|| format!("cannot run {}", recipe.program.display()))
}

fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    #[allow(unsafe_code, reason = "prctl must be called in the child, between fork and exec")]
    // SAFETY: only async-signal-safe calls (prctl, getppid, signal, _exit) between fork and exec, and no allocation.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may have died before the request was made.
            if libc::getppid().cast_unsigned() != parent {
                libc::_exit(1);
            }
            // A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
            if libc::signal(libc::SIGINT, libc::SIG_DFL) == libc::SIG_ERR {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The one thread that forks.
struct Spawner(Mutex<mpsc::Sender<Job>>);

fn spawner() -> &'static Spawner {
    static SPAWNER: OnceLock<Spawner> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("lab-spawner".to_owned())
            .spawn(move || {
                // Ends only with the process: the sender is in a static.
                for (mut command, done) in todo {
                    let _ = done.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Spawner(Mutex::new(jobs))
    })
}

impl Spawner {
    fn spawn(&self, command: Command) -> Result<Child> {
        let (done, result) = mpsc::channel();
        let jobs = self.0.lock().map_err(|_| anyhow::anyhow!("a thread panicked while it started a process"))?;
        jobs.send((command, done)).context("the spawner thread is gone")?;
        drop(jobs);
        Ok(result.recv().context("the spawner thread is gone")??)
    }
}
