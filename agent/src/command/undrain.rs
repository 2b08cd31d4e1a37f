//! `mtxfleet undrain`: cancel a drain, or bring a drained node back.

use anyhow::bail;
use mtxfleet_wire::NodeId;

use super::api::{Access, Api};
use super::output::say;

#[derive(Debug, clap::Args)]
pub struct Undrain {
    /// The node; without it, the one whose agent is asked.
    node: Option<NodeId>,
    #[command(flatten)]
    access: Access,
}

impl Undrain {
    pub async fn run(self) -> anyhow::Result<()> {
        let node = Api::new(&self.access)?.of_node(self.node.as_ref()).await?;
        match node.order_undrain().await? {
            Ok(view) => say(format!("{} is back in service\n", view.node))?,
            Err(refusal) => bail!("nothing changed: {refusal}"),
        }
        Ok(())
    }
}
