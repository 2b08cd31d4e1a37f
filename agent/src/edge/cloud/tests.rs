//! The drivers against their other sides: the local cloud as it is, and programs after `docs/ref/cloud.md`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mtxfleet_leader::cloud::InstanceState;
use mtxfleet_wire::{InstanceId, Mono};

use super::*;
use crate::local_cloud::{self, Faults, Settings};

fn asking(call: CloudCall) -> CloudAsk {
    CloudAsk { number: 7, role: Role::Distribution, call, not_after: None }
}

struct Asker {
    cloud: CloudHandle,
    answers: mpsc::Receiver<Answered>,
}

impl Asker {
    fn new(driver: &CloudDriver) -> Self {
        crate::edge::tls::install_crypto();
        let cluster = ClusterName::new("prod").expect("valid");
        let (cloud, answers) = CloudHandle::new(driver, &cluster, Clock::start()).expect("a client");
        Self { cloud, answers }
    }

    async fn ask(&mut self, call: CloudCall) -> Result<CloudAnswer, CloudError> {
        self.cloud.ask(asking(call));
        let (number, answer) = self.answers.recv().await.expect("an answer");
        assert_eq!(number, 7);
        answer
    }

    async fn group(&mut self) -> Group {
        match self.ask(CloudCall::Describe).await.expect("a listing") {
            CloudAnswer::Group(group) => group,
            CloudAnswer::Done => panic!("no listing"),
        }
    }

    /// Waits until the group looks so.
    async fn until(&mut self, fits: impl Fn(&Group) -> bool) -> Group {
        for _ in 0..400 {
            let group = self.group().await;
            if fits(&group) {
                return group;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not in time: {:?}", self.group().await)
    }
}

fn running(group: &Group) -> usize {
    group.instances.iter().filter(|instance| instance.state == InstanceState::InService).count()
}

/// A local cloud of shells that sleep. Tests run on one thread, so that its children are this thread's.
async fn local_cloud(dir: &Path) -> (Asker, String, tokio::task::JoinHandle<anyhow::Result<()>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let text = format!(
        r#"
listen = "{address}"
dir = "{dir}"
[[group]]
role = "distribution"
min = 1
max = 3
launch_delay = "100ms"
[[group.file]]
name = "note"
text = "{{id}} in {{place}}"
[[group.prepare]]
command = ["cat", "{{dir}}/note"]
output = "copy"
[[group.program]]
name = "sleeper"
command = ["sh", "-c", "cat copy; echo \" $MTXFLEET_INSTANCE\"; sleep 100 & wait"]
[[group.slot]]
place = "one"
[[group.slot]]
place = "two"
[[group.slot]]
place = "three"
[[group.slot]]
place = "four"
"#,
        dir = dir.display()
    );
    let settings = Settings::parse(&text, Path::new("cloud.toml")).expect("valid");
    let task = tokio::spawn(local_cloud::run(settings, std::future::pending()));
    let url = format!("http://{address}");
    let mut asker = Asker::new(&CloudDriver::Local { url: url.parse().expect("a URL") });
    for _ in 0..100 {
        if asker.ask(CloudCall::Describe).await.is_ok() {
            return (asker, url, task);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the local cloud does not answer");
}

#[tokio::test]
async fn the_local_cloud_starts_what_is_missing_and_ends_what_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut asker, _, task) = local_cloud(dir.path()).await;
    let group = asker.until(|group| running(group) == 1).await;
    assert_eq!((group.desired, group.min, group.max), (1, 1, 3));
    assert_eq!(asker.ask(CloudCall::SetDesired { desired: 3 }).await, Ok(CloudAnswer::Done));
    let group = asker.until(|group| running(group) == 3).await;
    assert_eq!(
        std::fs::read_to_string(dir.path().join("distribution-2/copy")).expect("there"),
        "distribution-2 in two"
    );
    let refused = asker.ask(CloudCall::SetDesired { desired: 9 }).await;
    assert!(matches!(refused, Err(CloudError::Refused(why)) if why.contains("from 1 to 3")));

    let first = group.instances[0].id.clone();
    let end = CloudCall::End { instance: first.clone(), decrement: true };
    assert_eq!(asker.ask(end.clone()).await, Ok(CloudAnswer::Done));
    assert_eq!(asker.ask(end).await, Ok(CloudAnswer::Done), "twice is once");
    let group = asker.until(|group| group.instances.len() == 2).await;
    assert_eq!(group.desired, 2);
    assert!(!dir.path().join("distribution-1").exists());
    let log = std::fs::read_to_string(dir.path().join("logs/distribution-1-sleeper.log")).expect("a log");
    assert_eq!(log, "distribution-1 in one i-distribution-1\n");

    let second = group.instances[0].id.clone();
    assert!(asker.ask(CloudCall::End { instance: second.clone(), decrement: false }).await.is_ok());
    let group = asker.until(|group| running(group) == 2 && group.instance(&second).is_none()).await;
    assert_eq!(group.desired, 2, "another took its place");
    let (third, fourth) = (group.instances[0].id.clone(), group.instances[1].id.clone());
    assert!(asker.ask(CloudCall::End { instance: third, decrement: true }).await.is_ok());
    let last = asker.ask(CloudCall::End { instance: fourth, decrement: true }).await;
    assert!(matches!(last, Err(CloudError::Refused(why)) if why.contains("the least")));
    task.abort();
}

#[tokio::test]
async fn a_local_cloud_that_misbehaves_is_seen_to() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut asker, url, task) = local_cloud(dir.path()).await;
    asker.until(|group| running(group) == 1).await;
    let client = reqwest::Client::new();
    let tell = async |faults: Faults| {
        let told = client.put(format!("{url}/v1/faults")).json(&faults).send().await.expect("an answer");
        assert!(told.status().is_success());
    };
    tell(Faults { fail: 1, throttle: 1, ..Faults::default() }).await;
    assert!(matches!(asker.ask(CloudCall::Describe).await, Err(CloudError::Failed(_))));
    assert!(matches!(asker.ask(CloudCall::Describe).await, Err(CloudError::Throttled(_))));
    assert!(asker.ask(CloudCall::Describe).await.is_ok());
    tell(Faults { half_list: true, ..Faults::default() }).await;
    assert!(matches!(asker.ask(CloudCall::Describe).await, Err(CloudError::Incomplete(_))));
    tell(Faults { refuse_end: Some("suspended".into()), ..Faults::default() }).await;
    let instance = asker.group().await.instances[0].id.clone();
    let refused = asker.ask(CloudCall::End { instance, decrement: false }).await;
    assert_eq!(refused, Err(CloudError::Refused("suspended".into())));
    tell(Faults { answer_after_ms: 10_000, ..Faults::default() }).await;
    assert_eq!(asker.ask(CloudCall::SetDesired { desired: 2 }).await, Err(CloudError::TimedOut));
    tell(Faults::default()).await;
    assert_eq!(asker.group().await.desired, 2, "it was carried out all the same");
    task.abort();
}

#[tokio::test]
async fn a_call_that_could_outlast_its_lease_is_not_made() {
    let mut asker = Asker::new(&exec(Path::new("/nowhere"), "x"));
    let in_a_moment = Some(Mono(CALL_WITHIN));
    asker.cloud.ask(CloudAsk { not_after: in_a_moment, ..asking(CloudCall::SetDesired { desired: 3 }) });
    assert_eq!(asker.answers.recv().await, Some((7, Err(CloudError::TooLate))));
}

/// All three commands are this script.
fn exec(folder: &Path, script: &str) -> CloudDriver {
    let path: PathBuf = folder.join("cloud.sh");
    if folder.exists() {
        std::fs::write(&path, format!("cat > {}/asked\n{script}\n", folder.display())).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    }
    let command = |word: &str| vec!["sh".to_owned(), path.display().to_string(), word.to_owned()];
    CloudDriver::Exec { list: command("list"), grow: command("grow"), end: command("end") }
}

const LISTED: &str = r#"echo '{"complete": true, "desired": 2, "min": 1, "max": 9, "instances": [
    {"id": "i-1", "state": "in_service", "age_seconds": 60}, {"id": "i-2", "state": "launching"}]}'"#;

#[tokio::test]
async fn a_program_is_told_in_json_and_its_listing_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut asker = Asker::new(&exec(folder.path(), LISTED));
    let asked = || std::fs::read_to_string(folder.path().join("asked")).expect("asked");
    let group = asker.group().await;
    assert_eq!((group.desired, group.instances.len(), group.role), (2, 2, Role::Distribution));
    assert_eq!(asked(), "{\"version\":1,\"cluster\":\"prod\",\"role\":\"distribution\",\"action\":\"describe\"}\n");
    assert_eq!(asker.ask(CloudCall::SetDesired { desired: 4 }).await, Ok(CloudAnswer::Done));
    assert!(asked().ends_with("\"action\":\"set_desired\",\"desired\":4}\n"), "{}", asked());
    let instance = InstanceId::new("i-2").expect("valid");
    assert_eq!(asker.ask(CloudCall::End { instance, decrement: true }).await, Ok(CloudAnswer::Done));
    assert!(asked().ends_with("\"action\":\"end\",\"instance\":\"i-2\",\"decrement\":true}\n"), "{}", asked());
}

#[tokio::test]
async fn what_a_program_does_wrong_is_an_error_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let half = LISTED.replace("\"complete\": true, ", "");
    let twice = LISTED.replace("i-2", "i-1");
    let other = LISTED.replace("{\"complete\"", "{\"role\": \"ingestion\", \"complete\"");
    let long = "head -c 2000000 /dev/zero".to_owned();
    let text = |text: &str| text.to_owned();
    for (script, wanted) in [
        (text("echo slow down >&2; exit 75"), CloudError::Throttled("slow down".into())),
        (text("echo a >&2; echo at its least >&2; exit 77"), CloudError::Refused("at its least".into())),
        (text("echo broken >&2; exit 1"), CloudError::Failed("broken (exit code 1)".into())),
        (half, CloudError::Incomplete("2 instance(s), and it does not say that these are all".into())),
        (twice, CloudError::Incomplete("i-1 is in it twice".into())),
        (other, CloudError::Failed("it lists the group for ingestion".into())),
        (text("sleep 30 & sleep 30"), CloudError::TimedOut),
    ] {
        let mut asker = Asker::new(&exec(folder.path(), &script));
        assert_eq!(asker.ask(CloudCall::Describe).await, Err(wanted), "{script}");
    }
    for (script, part) in [
        (text("echo '{}'"), "another JSON than docs/ref/cloud.md says"),
        (text("echo hello"), "answers no JSON"),
        (long, "answers more than 1 MiB"),
        (text("kill -9 $$"), "was killed"),
    ] {
        let mut asker = Asker::new(&exec(folder.path(), &script));
        let Err(CloudError::Failed(why)) = asker.ask(CloudCall::Describe).await else { panic!("{script}") };
        assert!(why.contains(part), "{script}: {why}");
    }
    let mut asker = Asker::new(&exec(Path::new("/nowhere"), ""));
    assert!(asker.ask(CloudCall::Describe).await.is_err());
}
