//! Tests only: the real MediaMTX and real cameras, on addresses of their own, gone with the test.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Longer than any start or end of a part takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A program on `PATH` (or, for `mediamtx`, `$MEDIAMTX_BIN`); without it says loudly what is not tested, past the
/// capturing of the test harness and into the notes that `make test` ends with.
pub(crate) fn find(program: &str, what: &str) -> Option<PathBuf> {
    if let Some(chosen) = std::env::var_os("MEDIAMTX_BIN").filter(|_| program == "mediamtx") {
        return Some(chosen.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = dirs.map(|dir| dir.join(program)).find(|candidate| candidate.is_file());
    if found.is_none() {
        use std::io::Write as _;
        let line = format!("skipped: {what}: {program} is not installed\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        if let Some(notes) = std::env::var_os("MTXFLEET_TEST_NOTES") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(notes);
            let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
        }
    }
    found
}

/// An address that no other test listens on: one of this process's own in 127.0.0.0/8.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, high, middle, low] = (std::process::id() & 0x00ff_ffff).to_be_bytes();
    let ip = Ipv4Addr::new(127, high | 0x80, middle, low.clamp(1, 254));
    loop {
        let port = 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000;
        let address = SocketAddr::from((ip, port as u16));
        // By connecting: a port tried by binding is inherited by a child that another test forks just then.
        if TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err() {
            return address;
        }
    }
}

/// Waits for a state.
pub(crate) async fn wait_for(what: &str, mut there: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !there().await {
        assert!(Instant::now() < deadline, "in vain for {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A child that is killed when dropped, or when the thread that started it ends.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(program: &str, args: &[&str]) -> Self {
        Self::spawn(program, args).unwrap_or_else(|e| panic!("{program} does not start: {e}"))
    }

    fn spawn(program: &str, args: &[&str]) -> std::io::Result<Self> {
        let quiet = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
        };
        quiet(Command::new("setpriv").args(["--pdeathsig", "KILL", program]).args(args))
            .or_else(|_| quiet(Command::new(program).args(args)))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A MediaMTX with RTSP over TCP and its API, everything else off.
#[derive(Debug)]
pub(crate) struct RealServer {
    pub(crate) api: SocketAddr,
    pub(crate) rtsp: SocketAddr,
    _process: Process,
    _config: tempfile::TempDir,
}

impl RealServer {
    /// `more` is YAML at the top level, `paths` included. `None` where there is no MediaMTX.
    pub(crate) async fn start(what: &str, more: &str) -> Option<Self> {
        let program = find("mediamtx", what)?;
        let (api, rtsp) = (free_address(), free_address());
        let config = tempfile::tempdir().unwrap();
        let file = config.path().join("mediamtx.yml");
        let yaml = format!(
            "logLevel: error\napi: yes\napiAddress: {api}\nrtsp: yes\nrtspAddress: {rtsp}\nrtspTransports: [tcp]\n\
             rtmp: no\nsrt: no\nmoq: no\n{more}"
        );
        let off = ["hls", "webrtc"]
            .map(|p| if more.contains(&format!("{p}: yes")) { String::new() } else { format!("{p}: no\n") });
        std::fs::write(&file, yaml + "\n" + &off.concat()).unwrap();
        let process = Process::start(program.to_str().unwrap(), &[file.to_str().unwrap()]);
        for address in [api, rtsp] {
            wait_for("MediaMTX listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        }
        Some(Self { api, rtsp, _process: process, _config: config })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("rtsp://{}/{path}", self.rtsp)
    }

    /// A small H.264 picture at 10 frames a second, a keyframe each second.
    pub(crate) fn publish(&self, path: &str) -> Process {
        let picture = "testsrc=size=160x120:rate=10";
        let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-threads", "1", "-g", "10"];
        let url = self.url(path);
        let mut args = vec!["-nostdin", "-loglevel", "error", "-re", "-f", "lavfi", "-i", picture, "-pkt_size", "1200"];
        args.extend(encoder);
        args.extend(["-f", "rtsp", "-rtsp_transport", "tcp", url.as_str()]);
        Process::start("ffmpeg", &args)
    }

    /// Reads and throws away.
    pub(crate) fn read(&self, path_and_query: &str) -> Process {
        let url = self.url(path_and_query);
        Process::start(
            "ffmpeg",
            &["-nostdin", "-loglevel", "error", "-rtsp_transport", "tcp", "-i", &url, "-c", "copy", "-f", "null", "-"],
        )
    }
}
