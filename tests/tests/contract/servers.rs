//! What a case runs on: an ingestion and a distribution server, a redirector between them, and cameras.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mediamtx_config::{Action, Auth, Credential, DistributionServer, IngestionServer, Recording};
use mtxfleet_tests::{
    lab::{
        address::Loopback,
        process::{Process, Recipe},
        programs,
        wait::wait_for,
    },
    server_binary::ServerBinary,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Long enough for a loaded machine; reached only on failure.
pub const SOON: Duration = Duration::from_secs(15);

/// What the distribution server is told, so that tests need not wait for the defaults of 10 s.
pub const START_TIMEOUT: Duration = Duration::from_secs(3);
pub const CLOSE_AFTER: Duration = Duration::from_secs(2);

/// Small, so that a slow reader's queue is full soon.
const WRITE_QUEUE: u32 = 64;

/// The fleet's user and password: needed to read at the ingestion server, and for every API.
pub const FLEET: &str = "fleet:0a1b2c3d";

/// The kinds of camera whose samples are encoded once and then published as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    H264,
    H265,
    H264WithAac,
    H264WithBFrames,
}

impl Sample {
    pub const ALL: [Sample; 4] = [Sample::H264, Sample::H265, Sample::H264WithAac, Sample::H264WithBFrames];

    fn encoder(self) -> &'static [&'static str] {
        match self {
            Sample::H264 => &["-an", "-c:v", "libx264", "-tune", "zerolatency"],
            Sample::H265 => {
                &["-an", "-c:v", "libx265", "-x265-params", "log-level=error:bframes=0:open-gop=0", "-tag:v", "hvc1"]
            }
            Sample::H264WithAac => &["-c:a", "aac", "-ac", "1", "-c:v", "libx264", "-tune", "zerolatency"],
            Sample::H264WithBFrames => &["-an", "-c:v", "libx264", "-bf", "2"],
        }
    }
}

/// Files of 8 s, with a keyframe each second.
#[derive(Debug)]
pub struct Samples {
    folder: PathBuf,
}

impl Samples {
    /// Encodes those that are not there from an earlier run.
    pub async fn encode() -> Result<Samples> {
        let samples = Samples { folder: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("contract-samples-2") };
        std::fs::create_dir_all(&samples.folder)?;
        for sample in Sample::ALL {
            let file = samples.file(sample);
            if file.is_file() {
                continue;
            }
            let partial = file.with_extension(format!("{}.part", std::process::id()));
            let mut command = tokio::process::Command::new(programs::find("ffmpeg")?);
            command
                .args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"])
                .args(["-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", "8", "-pix_fmt", "yuv420p"])
                .args(sample.encoder())
                .args(["-preset", "ultrafast", "-g", "25", "-b:v", "300k", "-f", "mp4"])
                .arg(&partial)
                .kill_on_drop(true);
            let status = tokio::time::timeout(Duration::from_secs(120), command.status()).await??;
            ensure!(status.success(), "ffmpeg cannot encode {sample:?}: {status}");
            // A rename, since another run may encode at the same time.
            std::fs::rename(&partial, &file)?;
        }
        Ok(samples)
    }

    fn file(&self, sample: Sample) -> PathBuf {
        self.folder.join(format!("{sample:?}.mp4"))
    }
}

/// The two servers of a case.
#[derive(Debug)]
pub struct Pair {
    pub ingestion: Server,
    pub distribution: Server,
    pub redirector: Redirector,
    samples: Arc<Samples>,
    folder: tempfile::TempDir,
}

/// One running server.
#[derive(Debug)]
pub struct Server {
    pub rtsp: SocketAddr,
    pub api: SocketAddr,
    pub metrics: SocketAddr,
    /// Of the ingestion server.
    playback: Option<SocketAddr>,
    process: Mutex<Process>,
    http: reqwest::Client,
}

impl Pair {
    /// Starts both, and waits until their APIs answer.
    pub async fn start(ingestion: ServerBinary, distribution: ServerBinary, samples: Arc<Samples>) -> Result<Pair> {
        let folder = tempfile::tempdir()?;
        let [rtsp, api, metrics, playback] = ports()?;
        let (user, password) = FLEET.split_once(':').context("user:password")?;
        let mut settings = IngestionServer {
            rtsp,
            api,
            metrics,
            auth: Auth::anyone([Action::Publish]),
            anonymous_loopback_api: false,
            recording: Some(Recording {
                dir: folder.path().join("recordings").display().to_string(),
                playback,
                ..Recording::default()
            }),
            ..IngestionServer::new(Credential::new(user, password))
        };
        settings.fleet.write_queue_size = WRITE_QUEUE;
        let listens = [rtsp, api, metrics];
        let mut ingestion = Server::start("ingestion", &ingestion, listens, &settings.render()?, &folder)?;
        ingestion.playback = Some(playback);
        let redirector = Redirector::start(rtsp).await?;
        let [rtsp, api, metrics] = ports()?;
        let mut settings = DistributionServer {
            rtsp,
            api,
            metrics,
            anonymous_loopback_api: false,
            start_timeout: START_TIMEOUT,
            close_after: CLOSE_AFTER,
            ..DistributionServer::new(Credential::new(user, password), "dist-1", redirector.address)
        };
        settings.fleet.write_queue_size = WRITE_QUEUE;
        let listens = [rtsp, api, metrics];
        let distribution = Server::start("distribution", &distribution, listens, &settings.render()?, &folder)?;
        let pair = Pair { ingestion, distribution, redirector, samples, folder };
        for server in [&pair.ingestion, &pair.distribution] {
            server.wait_ready().await?;
        }
        Ok(pair)
    }

    /// A camera that publishes a sample in its own time, over and over, and is there.
    pub async fn camera(&self, path: &str, sample: Sample) -> Result<Process> {
        let camera = self.camera_at(path, sample, &["-re"])?;
        self.ingestion.wait_available(path).await?;
        Ok(camera)
    }

    /// A camera with a pace given as ffmpeg's options. Not waited for.
    pub fn camera_at(&self, path: &str, sample: Sample, pace: &[&str]) -> Result<Process> {
        static CAMERAS: AtomicUsize = AtomicUsize::new(0);
        let file = self.samples.file(sample).display().to_string();
        let url = self.ingestion.publish_url(path);
        Recipe::new(format!("camera-{}", CAMERAS.fetch_add(1, Relaxed)), programs::find("ffmpeg")?)
            .args(["-v", "error", "-nostdin"])
            .args(pace.iter().copied())
            .args(["-stream_loop", "-1", "-i", &file, "-c", "copy", "-f", "rtsp", "-rtsp_transport", "tcp"])
            // MediaMTX splits RTP packets above 1440 bytes, which is not what is tested here.
            .args(["-pkt_size", "1400", &url])
            .start(self.folder.path())
    }

    /// A file of the case's own.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// The end of every log, for a case that failed.
    pub fn logs(&self) -> String {
        let tail = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        let entries = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| format!("--- {}\n{}\n", path.display(), tail(&path))).collect()
    }
}

impl Server {
    fn start(
        name: &str,
        binary: &ServerBinary,
        [rtsp, api, metrics]: [SocketAddr; 3],
        config: &str,
        folder: &tempfile::TempDir,
    ) -> Result<Server> {
        let file = folder.path().join(format!("{name}.yml"));
        std::fs::write(&file, config)?;
        let recipe = Recipe::new(name, &binary.path).args([file.display().to_string()]);
        let http = reqwest::Client::builder().timeout(SOON).build()?;
        let playback = None;
        Ok(Server { rtsp, api, metrics, playback, process: Mutex::new(recipe.start(folder.path())?), http })
    }

    async fn wait_ready(&self) -> Result<()> {
        wait_for("a server's API", SOON, async || -> Result<()> {
            self.process.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.check_alive()?;
            self.get("/v3/info").await?;
            Ok(())
        })
        .await
    }

    /// Kills it and starts it again.
    pub async fn crash(&self) -> Result<()> {
        {
            let mut process = self.process.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
            process.kill();
            process.restart()?;
        }
        self.wait_ready().await
    }

    /// Asks the playback server; status and body of whatever it answers.
    pub async fn playback(&self, what: &str, query: &[(&str, &str)], credentials: bool) -> Result<(u16, Vec<u8>)> {
        let address = self.playback.context("this server records nothing")?;
        let mut request = self.http.get(format!("http://{address}{what}")).query(query);
        if credentials {
            let (user, password) = FLEET.split_once(':').context("user:password")?;
            request = request.basic_auth(user, Some(password));
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.bytes().await?.to_vec()))
    }

    /// For a camera: everyone may publish.
    pub fn publish_url(&self, path: &str) -> String {
        format!("rtsp://{}/{path}", self.rtsp)
    }

    /// For a reader, with the fleet's credentials.
    pub fn url(&self, path: &str) -> String {
        format!("rtsp://{FLEET}@{}/{path}", self.rtsp)
    }

    /// Asks the API, and fails on anything but success.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.request(reqwest::Method::GET, path).await?;
        ensure!(status == 200, "{path} answers {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{path} answers no JSON: {body}"))
    }

    /// Asks the API; status and body of whatever it answers.
    pub async fn request(&self, method: reqwest::Method, path: &str) -> Result<(u16, String)> {
        let (user, password) = FLEET.split_once(':').context("user:password")?;
        let url = format!("http://{}{path}", self.api);
        let answer = self.http.request(method, url).basic_auth(user, Some(password)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Gives the API a path's settings; status and body of what it answers.
    pub async fn configure(&self, verb: &str, path: &str, settings: &Value) -> Result<(u16, String)> {
        let (user, password) = FLEET.split_once(':').context("user:password")?;
        let url = format!("http://{}/v3/config/paths/{verb}/{path}", self.api);
        let answer = self.http.post(url).basic_auth(user, Some(password)).json(settings).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The text of the metrics.
    pub async fn metrics(&self, query: &str) -> Result<String> {
        let (user, password) = FLEET.split_once(':').context("user:password")?;
        let url = format!("http://{}/metrics{query}", self.metrics);
        let answer = self.http.get(url).basic_auth(user, Some(password)).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// The items of a list, all pages of which fit into one.
    pub async fn list(&self, list: &str) -> Result<Vec<Value>> {
        let answer = self.get(&format!("/v3/{list}/list")).await?;
        Ok(answer["items"].as_array().with_context(|| format!("no items in {answer}"))?.clone())
    }

    /// Waits until a path delivers, and gives what the API says of it.
    pub async fn wait_available(&self, path: &str) -> Result<Value> {
        wait_for(format!("path {path} to be available"), SOON, async || -> Result<Value> {
            let seen = self.get(&format!("/v3/paths/get/{path}")).await?;
            ensure!(seen["available"] == true, "{seen}");
            Ok(seen)
        })
        .await
    }

    /// Waits until a path is listed and does not deliver: what becomes of a path that was pulled on demand.
    pub async fn wait_idle(&self, path: &str) -> Result<()> {
        wait_for(format!("path {path} to be idle"), SOON, async || -> Result<()> {
            let seen = self.get(&format!("/v3/paths/get/{path}")).await?;
            ensure!(seen["available"] == false && seen["ready"] == false, "{seen}");
            ensure!(seen["readers"] == serde_json::json!([]) && seen["source"]["type"] == "rtspSource", "{seen}");
            Ok(())
        })
        .await
    }

    /// Waits until a path is not there any more: what becomes of one that was published.
    pub async fn wait_gone(&self, path: &str) -> Result<()> {
        wait_for(format!("path {path} to go"), SOON, async || -> Result<()> {
            let (status, body) = self.request(reqwest::Method::GET, &format!("/v3/paths/get/{path}")).await?;
            ensure!(status == 404, "{body}");
            Ok(())
        })
        .await
    }
}

/// All cases count on one address, so that none is given a port twice.
fn ports<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    static LOOPBACK: LazyLock<Mutex<Loopback>> = LazyLock::new(|| Mutex::new(Loopback::next()));
    let mut loopback = LOOPBACK.lock().map_err(|_| anyhow::anyhow!("a case panicked while it chose a port"))?;
    let ports: Vec<SocketAddr> = (0..COUNT).map(|_| loopback.port()).collect::<Result<_>>()?;
    ports.try_into().map_err(|_| anyhow::anyhow!("as many as were asked for"))
}

/// Answers every DESCRIBE with the ingestion server's address, as the agent's resolver does; names that begin with
/// `nope` with 404.
#[derive(Debug)]
pub struct Redirector {
    pub address: SocketAddr,
    describes: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Redirector {
    async fn start(to: SocketAddr) -> Result<Redirector> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let describes = Arc::<AtomicUsize>::default();
        let counter = describes.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(redirect(socket, to, counter.clone()));
            }
        });
        Ok(Redirector { address, describes, task })
    }

    /// How often it was asked.
    pub fn describes(&self) -> usize {
        self.describes.load(Relaxed)
    }
}

impl Drop for Redirector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn redirect(mut socket: TcpStream, to: SocketAddr, describes: Arc<AtomicUsize>) -> Result<()> {
    let (read, mut write) = socket.split();
    let mut lines = BufReader::new(read).lines();
    let (mut first, mut sequence) = (String::new(), String::new());
    while let Some(line) = lines.next_line().await? {
        if first.is_empty() {
            first = line;
        } else if line.to_ascii_lowercase().starts_with("cseq") {
            sequence = line;
        } else if line.is_empty() {
            let path = first.split(' ').nth(1).and_then(|url| url.splitn(4, '/').nth(3)).unwrap_or_default();
            // The path alone: the owner's address brings its own query.
            let path = path.split('?').next().unwrap_or_default();
            let answer = if first.starts_with("OPTIONS") {
                format!("RTSP/1.0 200 OK\r\n{sequence}\r\nPublic: DESCRIBE\r\n\r\n")
            } else {
                describes.fetch_add(1, Relaxed);
                match path.starts_with("nope") {
                    true => format!("RTSP/1.0 404 Not Found\r\n{sequence}\r\n\r\n"),
                    false => format!("RTSP/1.0 302 Found\r\n{sequence}\r\nLocation: rtsp://{to}/{path}\r\n\r\n"),
                }
            };
            write.write_all(answer.as_bytes()).await?;
            first.clear();
        }
    }
    Ok(())
}

/// A connection on which a case says RTSP by hand.
#[derive(Debug)]
pub struct Dialogue {
    socket: BufReader<TcpStream>,
    sequence: u32,
}

impl Dialogue {
    pub async fn open(to: SocketAddr) -> Result<Dialogue> {
        Ok(Dialogue { socket: BufReader::new(TcpStream::connect(to).await?), sequence: 0 })
    }

    /// Sends a request with these header lines; the status and the head of the answer. Packets before it are skipped.
    pub async fn call(&mut self, request: &str, headers: &[&str]) -> Result<(u16, String)> {
        self.sequence += 1;
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let text = format!("{request} RTSP/1.0\r\nCSeq: {}\r\n{lines}\r\n", self.sequence);
        self.socket.write_all(text.as_bytes()).await?;
        match tokio::time::timeout(SOON, self.answer()).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer to {request}"),
        }
    }

    async fn answer(&mut self) -> Result<(u16, String)> {
        while self.socket.fill_buf().await?.first() == Some(&b'$') {
            let mut header = [0; 4];
            self.socket.read_exact(&mut header).await?;
            let mut packet = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
            self.socket.read_exact(&mut packet).await?;
        }
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(self.socket.read_line(&mut head).await? > 0, "closed after {head:?}");
        }
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.socket.read_exact(&mut body).await?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status line")?;
        Ok((status, head))
    }
}

/// The `Authorization` line for credentials.
pub fn basic(credentials: &str) -> String {
    use base64::Engine;
    format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials))
}
