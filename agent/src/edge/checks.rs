//! Whether RTSP ports and agents answer: this node's own, and those of a few peers.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::effect::{CheckList, PeerToCheck};
use crate::node::event::Checked;

/// For one answer; a server that needs longer serves nobody.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// For the command that starts MediaMTX again.
const RESTART_WITHIN: Duration = Duration::from_secs(25);

/// Takes at most 4 s.
pub async fn check(list: CheckList, client: &reqwest::Client) -> Checked {
    let own = async {
        match &list.own {
            Some(address) => Some(rtsp_answers(address).await),
            None => None,
        }
    };
    let peer = async |peer: &PeerToCheck| {
        let answers = rtsp_answers(&peer.rtsp).await;
        (answers || agent_answers(client, &peer.http).await).then(|| (peer.node.clone(), answers))
    };
    let (own, peers) = tokio::join!(own, futures::future::join_all(list.peers.iter().map(peer)));
    Checked { own, peers: peers.into_iter().flatten().collect() }
}

/// Whether an RTSP server answers `OPTIONS` with whatever status (RFC 2326, section 10.1).
pub async fn rtsp_answers(address: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("OPTIONS rtsp://{address}/ RTSP/1.0\r\nCSeq: 1\r\nUser-Agent: mtxfleet\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut begins = [0; 9];
        stream.read_exact(&mut begins).await?;
        std::io::Result::Ok(begins == *b"RTSP/1.0 ")
    };
    matches!(tokio::time::timeout(ANSWER_WITHIN, ask).await, Ok(Ok(true)))
}

async fn agent_answers(client: &reqwest::Client, http: &str) -> bool {
    let url = format!("{}/livez", http.trim_end_matches('/'));
    client.get(url).timeout(ANSWER_WITHIN).send().await.is_ok_and(|answer| answer.status().is_success())
}

/// Runs the operator's command, bounded, and says how it ended.
pub async fn restart_server(command: Vec<String>) {
    let Some((program, arguments)) = command.split_first() else { return };
    tracing::warn!(command = command.join(" "), "MediaMTX is ill; it is started again");
    let mut run = tokio::process::Command::new(program);
    run.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(RESTART_WITHIN, run.output()).await {
        Ok(Ok(done)) if done.status.success() => tracing::info!("mediamtx.restart_command has ended"),
        Ok(Ok(done)) => {
            let said = String::from_utf8_lossy(&done.stderr);
            let said: String = said.trim().chars().take(300).collect();
            tracing::error!(status = %done.status, said, "mediamtx.restart_command failed; run it by hand to see why");
        }
        Ok(Err(error)) => tracing::error!(%error, "mediamtx.restart_command cannot be run; correct it"),
        Err(_) => tracing::error!("mediamtx.restart_command did not end within 25 s and was killed"),
    }
}

#[cfg(test)]
mod tests {
    use mtxfleet_wire::NodeId;
    use tokio::net::TcpListener;

    use super::*;

    /// A listener that says `word` to whoever asks something.
    async fn says(word: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 512];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(word.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn an_rtsp_server_answers_and_nothing_else_does() {
        assert!(rtsp_answers(&says("RTSP/1.0 401 Unauthorized\r\n\r\n").await).await);
        assert!(!rtsp_answers(&says("HTTP/1.1 200 OK\r\n\r\n").await).await);
        assert!(!rtsp_answers(&says("").await).await);
        assert!(!rtsp_answers("127.0.0.1:1").await);
        assert!(!rtsp_answers("no such address").await);
    }

    #[tokio::test]
    async fn a_broken_server_is_told_from_a_node_that_is_not_reached_at_all() {
        crate::edge::tls::install_crypto();
        let client = reqwest::Client::new();
        let agent = format!("http://{}", says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await);
        let server = says("RTSP/1.0 200 OK\r\n\r\n").await;
        let nothing = "127.0.0.1:1".to_owned();
        let peer = |name: &str, rtsp: &String, http: &str| PeerToCheck {
            node: NodeId::new(name).unwrap(),
            rtsp: rtsp.clone(),
            http: http.to_owned(),
        };
        let peers = vec![
            peer("well", &server, &agent),
            peer("broken", &nothing, &agent),
            peer("cut-off", &nothing, "http://127.0.0.1:1"),
        ];
        let seen = check(CheckList { own: Some(server), peers }, &client).await;
        assert_eq!(seen.own, Some(true));
        let seen: Vec<(&str, bool)> = seen.peers.iter().map(|(node, answers)| (node.as_str(), *answers)).collect();
        assert_eq!(seen, [("well", true), ("broken", false)]);
    }

    #[tokio::test]
    async fn the_command_runs_and_one_that_cannot_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ran");
        restart_server(vec!["touch".into(), file.display().to_string()]).await;
        assert!(file.exists());
        restart_server(vec!["/no/such/program".into()]).await;
        restart_server(vec!["false".into()]).await;
        restart_server(Vec::new()).await;
    }
}
