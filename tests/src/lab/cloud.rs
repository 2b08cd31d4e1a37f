//! The lab's cloud: `mtxfleet local-cloud`, from which its distribution nodes come.
//!
//! Each instance lives in a slot: a name and addresses that are known from the start, so that HAProxy lists them all and
//! its checks tell which are taken.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mediamtx_config::Server;
use mtxfleet_leader::cloud::{Group, InstanceState};
use mtxfleet_wire::{InstanceId, Liveness, NodeId, NodeState, Role, ServerHealth};
use serde_json::{Value, json};

use super::Lab;
use super::address::Loopback;
use super::agent::{Api, client};
use super::media_server::Listeners;
use super::node::{Fields, Shared, agent_config};
use super::process::{Process, Recipe};
use super::wait::{PATIENCE, wait_for};

/// How a lab's cloud is set. Windows are short: what takes minutes in service takes seconds here.
#[derive(Debug, Clone)]
pub struct CloudSettings {
    /// Distribution nodes, at least and at most; it starts with the least.
    pub min: u32,
    pub max: u32,
    /// Slots beyond `max`, for instances that end while others launch, and for a cloud that launches too many.
    pub spare_slots: u32,
    /// From launch to the start of MediaMTX and agent.
    pub launch_delay: Duration,
    /// Lines of `[distribution]`, beside `min` and `max`.
    pub policy: String,
    /// An agent or a MediaMTX that ends is started again, as a service manager does.
    pub restart: bool,
    /// Ids of its nodes, `{n}` counts. Not as those of nodes that the lab starts itself, where it has both.
    pub nodes: &'static str,
    /// Of the cloud's group, where that is not the policy's `min`: other nodes may be beside it.
    pub group_min: Option<u32>,
    /// An instance that was asked for counts as launching for so long.
    pub boot_deadline: Duration,
    /// Recordings go to a disk of their own, of 4 MiB: [`Cloud::fill_disk`]. Needs [`can_mount`].
    pub small_disk: bool,
    /// Machines replaced in ten minutes, at most.
    pub replace_at_most: u32,
    /// The agents reach it by an operator's commands, three shell scripts, and not by driver `local`.
    pub by_commands: bool,
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self {
            min: 2,
            max: 4,
            spare_slots: 2,
            launch_delay: Duration::from_secs(1),
            policy: Self::policy(4, Duration::from_secs(1), Duration::from_secs(6)),
            restart: true,
            nodes: "dist-{n}",
            group_min: None,
            boot_deadline: Duration::from_secs(60),
            small_disk: false,
            replace_at_most: 3,
            by_commands: false,
        }
    }
}

impl CloudSettings {
    /// So many readers for each node, and nothing foreseen.
    #[must_use]
    pub fn policy(readers_per_node: u32, up_window: Duration, down_window: Duration) -> String {
        format!(
            "readers_per_node = {readers_per_node}\nheadroom = 0.0\ntolerance = 0.0\ngain = 0.0\nspare = 0\n\
             up_window = \"{}ms\"\ndown_window = \"{}ms\"\ncpu_limit = 0\n",
            up_window.as_millis(),
            down_window.as_millis()
        )
    }
}

/// A file that an agent's start looks for, and takes.
const MUTE: &str = "mute";

/// Of an instance's folder.
const DISK: &str = "disk";

/// Whether this process may give another one a disk of its own: as root, mostly.
#[must_use]
pub fn can_mount() -> bool {
    let mut tried = std::process::Command::new("unshare");
    tried.args(["-m", "mount", "-t", "tmpfs", "none", "/tmp"]).stderr(std::process::Stdio::null());
    tried.status().is_ok_and(|status| status.success())
}

#[derive(Debug, Clone)]
struct Slot {
    name: String,
    at: Listeners,
    gossip: SocketAddr,
    http: SocketAddr,
    agent_check: SocketAddr,
}

/// A running local cloud. Its instances end with it.
#[derive(Debug)]
pub struct Cloud {
    pub process: Process,
    pub settings: CloudSettings,
    slots: Vec<Slot>,
    at: SocketAddr,
    dir: PathBuf,
}

/// A node that the cloud started, as the fleet sees it.
#[derive(Debug, Clone)]
pub struct CloudNode {
    pub id: NodeId,
    pub instance: InstanceId,
    pub state: NodeState,
    /// `host:port` of its RTSP server.
    pub rtsp: String,
    pub api: Api,
}

impl Cloud {
    /// Starts it, and the least number of instances.
    pub(super) async fn start(
        settings: CloudSettings,
        shared: &Shared,
        loopback: &mut Loopback,
        folder: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let dir = folder.join("cloud");
        std::fs::create_dir(&dir)?;
        let mut slots = Vec::new();
        for number in 1..=settings.max + settings.spare_slots {
            slots.push(Slot {
                name: format!("slot-{number}"),
                at: Listeners::next(loopback)?,
                gossip: loopback.port()?,
                http: loopback.port()?,
                agent_check: loopback.port()?,
            });
        }
        let at = loopback.port()?;
        let driver = if settings.by_commands { commands(&dir, at)? } else { local(at) };
        std::fs::write(dir.join("agent.toml.in"), agent_template(&settings, shared, &driver))?;
        let file = dir.join("cloud.toml");
        std::fs::write(&file, cloud_config(&settings, shared, &slots, at, &dir))?;
        let recipe = Recipe::new("local-cloud", &shared.agent).args(["local-cloud", "--config"]);
        let process = recipe.args([file.display().to_string()]).start(logs)?;
        let mut cloud = Self { process, settings, slots, at, dir };
        wait_for("the local cloud to answer", PATIENCE, async || -> Result<()> {
            cloud.process.check_alive()?;
            cloud.group().await.map(drop)
        })
        .await?;
        Ok(cloud)
    }

    /// Instances that run before anybody asks for more.
    pub(super) fn at_start(&self) -> usize {
        self.settings.group_min.unwrap_or(self.settings.min) as usize
    }

    /// All slots, as HAProxy lists them.
    pub(super) fn servers(&self) -> Vec<Server> {
        self.slots.iter().map(|slot| Server::new(&slot.name, slot.at.rtsp, slot.agent_check)).collect()
    }

    /// The group of distribution nodes.
    ///
    /// # Errors
    /// When it does not answer, or oddly.
    pub async fn group(&self) -> Result<Group> {
        let answer = client().get(self.url("groups/distribution")).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    /// Instances that run or launch.
    ///
    /// # Errors
    /// As [`Self::group`].
    pub async fn present(&self) -> Result<usize> {
        Ok(self.group().await?.present().count())
    }

    /// Waits until so many instances are desired, run, and none launches or ends.
    ///
    /// # Errors
    /// When that is not so in time.
    pub async fn wait_size(&self, size: u32, bound: Duration) -> Result<()> {
        wait_for(format!("{size} instances"), bound, async || -> Result<()> {
            let group = self.group().await?;
            let run = group.instances.iter().all(|instance| instance.state == InstanceState::InService);
            ensure!(group.desired == size && group.instances.len() == size as usize && run, "{group:?}");
            Ok(())
        })
        .await
    }

    /// Sets the number by hand, as an operator might.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn set_desired(&self, desired: u32) -> Result<()> {
        let put = client().put(self.url("groups/distribution/desired")).json(&json!({ "desired": desired }));
        put.send().await?.error_for_status()?;
        Ok(())
    }

    /// Tells it to misbehave, as `docs/guide/local-cloud.md` lists; `{}` is well-behaved.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn faults(&self, faults: &Value) -> Result<()> {
        client().put(self.url("faults")).json(faults).send().await?.error_for_status()?;
        Ok(())
    }

    /// Kills a program of a node, `server` or `agent`, with SIGKILL; it is started again where the settings say so.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, node: &NodeId, program: &str) -> Result<()> {
        self.signal(node, program, libc::SIGKILL)
    }

    /// A signal to both programs of a node at once: SIGKILL is a machine that is gone, SIGSTOP one that hangs.
    ///
    /// # Errors
    /// When one does not run.
    pub fn signal_node(&self, node: &NodeId, signal: libc::c_int) -> Result<()> {
        self.signal(node, "server", signal)?;
        self.signal(node, "agent", signal)
    }

    fn signal(&self, node: &NodeId, program: &str, signal: libc::c_int) -> Result<()> {
        let pid = self.pid(node, program)?;
        #[allow(unsafe_code, reason = "kill(2) has no safe wrapper in std; the pid is of a child of this lab's cloud")]
        // SAFETY: takes two integers, touches no memory.
        let sent = unsafe { libc::kill(pid, signal) };
        ensure!(sent == 0, "{program} of {node} is gone already");
        Ok(())
    }

    /// The agent of the next instance that is launched never speaks.
    ///
    /// # Errors
    /// When the lab's folder cannot be written.
    pub fn launch_mute(&self) -> Result<()> {
        Ok(std::fs::write(self.dir.join(MUTE), "")?)
    }

    /// A stand-in goes on, and delivers nothing of what it pulls.
    ///
    /// # Errors
    /// When it does not run.
    pub fn still(&self, node: &NodeId) -> Result<()> {
        self.signal(node, "server", libc::SIGUSR1)
    }

    /// Leaves no room where the node's recordings go. Its agent alone sees that disk.
    ///
    /// # Errors
    /// When it has none, or its agent does not run.
    pub fn fill_disk(&self, node: &NodeId) -> Result<()> {
        let disk = self.dir.join("nodes").join(node.as_str()).join(DISK);
        let seen_by_agent = format!("/proc/{}/root{}", self.pid(node, "agent")?, disk.display());
        let mut file = std::fs::File::create(Path::new(&seen_by_agent).join("recording"))?;
        let full = std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err);
        ensure!(full.is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull), "it has room without end");
        Ok(())
    }

    /// What it did: lines of its log with this in them.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn said(&self, what: &str) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.process.log_path())?;
        Ok(log.lines().filter(|line| line.contains(what)).map(str::to_owned).collect())
    }

    /// The child of the local cloud whose command line names the node's folder.
    fn pid(&self, node: &NodeId, program: &str) -> Result<i32> {
        let file = match program {
            "agent" => "agent.toml",
            _ => "mediamtx.yml",
        };
        let named = self.dir.join("nodes").join(node.as_str()).join(file).display().to_string();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if line.split(|byte| *byte == 0).any(|word| word == named.as_bytes()) {
                return Ok(pid);
            }
        }
        anyhow::bail!("no process runs with {named}")
    }

    /// The slot in which a node lives, as HAProxy calls it.
    ///
    /// # Errors
    /// When it is in none.
    pub fn slot_of(&self, node: &CloudNode) -> Result<NodeId> {
        let slot = self.slots.iter().find(|slot| format!("http://{}", slot.http) == node.api.url);
        Ok(NodeId::new(&slot.with_context(|| format!("{} is in no slot", node.id))?.name)?)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v1/{path}", self.at)
    }
}

impl Lab {
    /// The cloud, in a lab that was built with one.
    ///
    /// # Errors
    /// When it was not.
    pub fn cloud(&self) -> Result<&Cloud> {
        self.cloud.as_ref().context("this lab has no cloud; build it with Builder::cloud")
    }

    /// Nodes that the cloud started and that live, as the first ingestion node sees them.
    ///
    /// # Errors
    /// When its agent does not answer.
    pub async fn cloud_nodes(&self) -> Result<Vec<CloudNode>> {
        let seen_by = self.of_role(Role::Ingestion).next().context("the lab has no ingestion node")?;
        let fleet = seen_by.agent.fleet().await?;
        let node = |member: mtxfleet_wire::MemberView| {
            let is_own = self.nodes.iter().any(|own| own.id == member.node);
            let facts = member.facts.filter(|_| member.liveness == Liveness::Alive && !is_own)?;
            let api = Api { node: member.node.clone(), url: facts.http, token: self.token.clone() };
            let (id, rtsp) = (member.node, facts.rtsp);
            Some(CloudNode { id, instance: facts.instance?, state: member.load?.state, rtsp, api })
        };
        Ok(fleet.members.into_iter().filter_map(node).collect())
    }

    /// Waits until so many cloud nodes are in service and HAProxy sends readers to as many slots.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn wait_cloud_nodes(&self, count: usize, bound: Duration) -> Result<Vec<CloudNode>> {
        let cloud = self.cloud()?;
        wait_for(format!("{count} nodes of the cloud in service"), bound, async || -> Result<Vec<CloudNode>> {
            let nodes = self.cloud_nodes().await?;
            let mut active = Vec::new();
            for node in nodes.into_iter().filter(|node| node.state == NodeState::Active) {
                let member = node.api.member().await?;
                let up = member.load.is_some_and(|load| load.server == ServerHealth::Up);
                let balancer = self.balancer.statistics().reader_backend(&cloud.slot_of(&node)?).await?;
                if up && balancer.status == "UP" {
                    active.push(node);
                }
            }
            ensure!(active.len() == count, "{:?}", active.iter().map(|node| &node.id).collect::<Vec<_>>());
            Ok(active)
        })
        .await
        .with_context(|| format!("log of the local cloud ends:\n{}", cloud.process.log_tail()))
    }

    /// Who leads the distribution nodes, as they themselves say.
    ///
    /// # Errors
    /// When none does, or an agent does not answer.
    pub async fn distribution_leader(&self) -> Result<CloudNode> {
        let nodes = self.cloud_nodes().await?;
        for node in &nodes {
            let views: Vec<mtxfleet_wire::OrchestratorView> = node.api.orchestrators().await?;
            let leader = views.into_iter().find(|view| view.role == Role::Distribution).and_then(|view| view.leader);
            if let Some(found) = leader.and_then(|leader| nodes.iter().find(|node| node.id == leader)) {
                return Ok(found.clone());
            }
        }
        anyhow::bail!("none of {:?} knows of a leader", nodes.iter().map(|node| &node.id).collect::<Vec<_>>())
    }
}

/// Lines of `[cloud]` for `mtxfleet local-cloud` itself.
fn local(at: SocketAddr) -> String {
    format!("driver = \"local\"\nurl = \"http://{at}\"\n")
}

/// An operator's commands, as `docs/ref/cloud.md` describes them, for a provider that is reached by HTTP. Gives the lines of
/// `[cloud]` that name them.
fn commands(dir: &Path, at: SocketAddr) -> Result<String> {
    let mut lines = "driver = \"exec\"\n".to_owned();
    for (name, call) in [("list", LIST), ("grow", GROW), ("end", END)] {
        let script = dir.join(format!("{name}.sh"));
        std::fs::write(&script, COMMAND.replace("{url}", &format!("http://{at}/v1/groups")).replace("{call}", call))?;
        lines += &format!("{name} = [\"sh\", \"{}\"]\n", script.display());
    }
    Ok(lines)
}

/// What the three have in common: the call's fields from one line of JSON, and the provider's refusals as exit codes.
const COMMAND: &str = r#"set -eu
read -r line
field() { printf %s "$line" | sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }
group="{url}/$(field role)"
ask() {
    code=$(curl -sS --max-time 2 -o "$answer" -w '%{http_code}' -H content-type:application/json "$@")
    case $code in
        2*) ;;
        409) cat "$answer" >&2; exit 77 ;;
        429) cat "$answer" >&2; exit 75 ;;
        *) echo "the provider answers $code" >&2; exit 1 ;;
    esac
}
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
{call}
"#;
const LIST: &str = r#"ask "$group"; cat "$answer""#;
const GROW: &str = r#"ask -X PUT "$group/desired" -d "{\"desired\":$(field desired)}""#;
const END: &str =
    r#"ask -X POST "$group/end" -d "{\"instance\":\"$(field instance)\",\"decrement\":$(field decrement)}""#;

/// `docs/guide/local-cloud.md` describes the file.
fn cloud_config(settings: &CloudSettings, shared: &Shared, slots: &[Slot], at: SocketAddr, dir: &Path) -> String {
    let CloudSettings { max, restart, nodes, .. } = settings;
    let min = settings.group_min.unwrap_or(settings.min);
    let mut text = format!(
        r#"listen = "{at}"
dir = "{dir}/nodes"
[[group]]
role = "distribution"
node = "{nodes}"
min = {min}
max = {max}
launch_delay = "{delay}ms"
stop_within = "1500ms"
[[group.file]]
name = "agent.toml"
template = "agent.toml.in"
[[group.prepare]]
command = ["{{mtxfleet}}", "render", "mediamtx", "--config", "{{dir}}/agent.toml", "--rtsp", "{{rtsp}}"]
output = "mediamtx.yml"
[[group.program]]
name = "server"
command = ["{server}", "{{dir}}/mediamtx.yml"]
restart = {restart}
[[group.program]]
name = "agent"
command = [{apart}"sh", "-c", "{mount}if rm {mute} 2>/dev/null; then exec sleep 3600; fi; exec $0 agent --config $1", "{{mtxfleet}}", "{{dir}}/agent.toml", "{{dir}}/{DISK}"]
restart = {restart}
"#,
        apart = if settings.small_disk { "\"unshare\", \"-m\", " } else { "" },
        mount = if settings.small_disk { "mkdir -p $2 && mount -t tmpfs -o size=4m none $2 && " } else { "" },
        mute = dir.join(MUTE).display(),
        dir = dir.display(),
        delay = settings.launch_delay.as_millis(),
        server = shared.binary.path.display(),
    );
    for slot in slots {
        text += &format!(
            "[[group.slot]]\nslot = \"{}\"\nip = \"{}\"\nrtsp = \"{}\"\napi = \"{}\"\nmetrics = \"{}\"\nplayback = \"{}\"\nresolver = \"{}\"\n\
             gossip = \"{}\"\nhttp = \"{}\"\nagent_check = \"{}\"\n",
            slot.name,
            slot.at.rtsp.ip(),
            slot.at.rtsp,
            slot.at.api,
            slot.at.metrics,
            slot.at.playback,
            slot.at.resolver,
            slot.gossip,
            slot.http,
            slot.agent_check
        );
    }
    text
}

/// The agents' configuration with placeholders for what differs between instances.
fn agent_template(settings: &CloudSettings, shared: &Shared, driver: &str) -> String {
    let text = |name: &str| format!("{{{name}}}");
    let seeds: Vec<String> = shared.seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
    let fields = Fields {
        id: text("id"),
        role: Role::Distribution,
        state: "{dir}/state".to_owned(),
        ip: text("ip"),
        api: text("api"),
        metrics: text("metrics"),
        playback: text("playback"),
        rtsp: text("rtsp"),
        gossip: text("gossip"),
        seeds: seeds.join(", "),
        http: text("http"),
        resolver: text("resolver"),
        agent_check: text("agent_check"),
        balanced_as: text("slot"),
        instance: None,
        web: false,
        disk: settings.small_disk.then(|| format!("{{dir}}/{DISK}")),
    };
    let CloudSettings { min, max, policy, .. } = settings;
    agent_config(&fields, shared)
        + &format!(
            "[cloud]\n{driver}poll_every = \"1s\"\nboot_deadline = \"{}ms\"\nreplace_at_most = {}\n[distribution]\nmin = {min}\nmax = {max}\n{policy}",
            settings.boot_deadline.as_millis(),
            settings.replace_at_most
        )
}
