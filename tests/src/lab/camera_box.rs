//! A box of cameras that are pulled with a password: one server, one picture, as many connections as one likes.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use mediamtx_config::{Action, Auth, Credential, IngestionServer, User};

use super::address::Loopback;
use super::agent::client;
use super::camera::{Camera, CameraKind};
use super::process::{Process, Recipe};
use super::wait::{PATIENCE, wait_for};
use crate::server_binary;

pub const USER: &str = "viewer";
/// Found again in whatever should not hold it.
pub const PASSWORD: &str = "s3cret-0f-the-cameras";

/// Dropping it stops it.
#[derive(Debug)]
pub struct CameraBox {
    at: SocketAddr,
    /// The one that sends; its server only passes on.
    pub sender: Camera,
    pub server: Process,
}

impl CameraBox {
    /// # Errors
    /// When a part of it does not come up.
    pub async fn start(dir: &Path, logs: &Path) -> Result<Self> {
        let mut loopback = Loopback::next();
        let (at, api, metrics) = (loopback.port()?, loopback.port()?, loopback.port()?);
        let viewer = User::named(USER, PASSWORD, [Action::Read]);
        let text = IngestionServer {
            rtsp: at,
            api,
            metrics,
            auth: Auth::Internal { users: vec![User::anyone([Action::Publish]), viewer] },
            recording: None,
            ..IngestionServer::new(Credential::new("nobody", "nothing"))
        }
        .render()?;
        let file = dir.join("camera-box.yml");
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        let binary = server_binary::find_stand_in()?;
        let server = Recipe::new("camera-box", &binary.path).args([file.display().to_string()]).start(logs)?;
        wait_for("the camera box to answer", PATIENCE, async || -> Result<()> {
            client().get(format!("http://{api}/v3/paths/list")).send().await?.error_for_status()?;
            Ok(())
        })
        .await?;
        let sender = Camera::start("picture", CameraKind::H264, &at.to_string(), logs)?;
        wait_for("the camera box to deliver", PATIENCE, async || -> Result<()> {
            client().get(format!("http://{api}/v3/paths/get/picture")).send().await?.error_for_status()?;
            Ok(())
        })
        .await?;
        Ok(Self { at, sender, server })
    }

    /// Lines of an inventory: these cameras, all of which send the one picture.
    #[must_use]
    pub fn inventory<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> String {
        let camera = |name| {
            format!(
                "[[camera]]\nname = \"{name}\"\nurl = \"rtsp://{}/picture\"\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n",
                self.at
            )
        };
        names.into_iter().map(camera).collect()
    }
}
