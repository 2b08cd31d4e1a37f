//! A real redis-server on a free loopback port, for tests. It dies with the test.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;

pub(super) struct TestRedis {
    port: u16,
    directory: tempfile::TempDir,
    server: Child,
}

impl TestRedis {
    /// `None`, said loudly, when there is no redis-server on this machine.
    pub(super) async fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: no redis-server on this machine (apt install redis-server), so nothing was tested");
            return None;
        }
        let mut directory = tempfile::tempdir().expect("temporary directory");
        // The port is free now and may be taken before Redis binds it: then another is tried.
        for _ in 0..5 {
            let port = free_port();
            let server = spawn(port, directory.path());
            let mut redis = Self { port, directory, server };
            if redis.answers().await {
                return Some(redis);
            }
            redis.kill();
            directory = std::mem::replace(&mut redis.directory, tempfile::tempdir().expect("temporary directory"));
        }
        panic!("redis-server did not start on any of five free ports");
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(super) async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("url");
        client.get_multiplexed_async_connection().await.expect("Redis answers")
    }

    /// Becomes a replica of that one, and has all of it when this returns.
    pub(super) async fn follow(&self, master: &Self) {
        let mut connection = self.connection().await;
        let mut order = redis::cmd("REPLICAOF");
        order.arg("127.0.0.1").arg(master.port);
        order.exec_async(&mut connection).await.expect("REPLICAOF");
        let in_step = async {
            loop {
                let info: String =
                    redis::cmd("INFO").arg("replication").query_async(&mut connection).await.expect("INFO");
                if info.contains("master_link_status:up") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), in_step).await.expect("the replica is in step");
    }

    /// Until this replica has what that one has written.
    pub(super) async fn has_all_of(&self, master: &Self) {
        let mut connection = master.connection().await;
        // WAIT speaks of the writes of its own connection, so there must be one.
        redis::cmd("SET").arg("mark").arg(1).exec_async(&mut connection).await.expect("SET");
        let in_step = async {
            loop {
                let mut wait = redis::cmd("WAIT");
                if wait.arg(1).arg(200).query_async::<u32>(&mut connection).await.expect("WAIT") == 1 {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), in_step).await.expect("the replica has all");
    }

    async fn answers(&self) -> bool {
        let client = redis::Client::open(self.url()).expect("url");
        let answered = async {
            while client.get_multiplexed_async_connection().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), answered).await.is_ok()
    }

    /// SIGKILL, as a crash; nothing was saved.
    pub(super) fn kill(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }

    /// Back on the same port, empty.
    pub(super) async fn restart(&mut self) {
        self.server = spawn(self.port, self.directory.path());
        assert!(self.answers().await, "redis-server did not come back");
    }

    /// SIGSTOP: connections are taken by the kernel, and nothing answers.
    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.server.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "could not signal redis-server");
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn spawn(port: u16, directory: &std::path::Path) -> Child {
    // setpriv makes it die with the thread of this test, even when that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server starts")
}
