//! `mtxfleet pause | resume | protect | unprotect`: what operators decide over the orchestrators' heads.

use clap::builder::PossibleValuesParser;
use mtxfleet_wire::{ControlOrder, NodeId, Role};

use super::api::{Access, Api};
use super::output::say;

/// `ingestion` or `distribution`, as an argument.
pub(super) fn role() -> impl clap::builder::TypedValueParser<Value = Role> {
    use clap::builder::TypedValueParser as _;
    PossibleValuesParser::new(["ingestion", "distribution"]).map(|text| match text.as_str() {
        "ingestion" => Role::Ingestion,
        _ => Role::Distribution,
    })
}

#[derive(Debug, clap::Args)]
pub struct Pause {
    #[arg(value_parser = role())]
    role: Role,
    /// For the record.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
pub struct Resume {
    #[arg(value_parser = role())]
    role: Role,
    /// For the record.
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    access: Access,
}

impl Pause {
    pub async fn run(self) -> anyhow::Result<()> {
        let order = ControlOrder { role: self.role, why: self.reason };
        let control = Api::new(&self.access)?.order_pause(&order, true).await?;
        let role = control.role;
        say(format!(
            "{role} is paused: nothing is begun or cancelled, drains under way go on; `mtxfleet resume {role}` ends it\n"
        ))
    }
}

impl Resume {
    pub async fn run(self) -> anyhow::Result<()> {
        let order = ControlOrder { role: self.role, why: self.reason };
        let control = Api::new(&self.access)?.order_pause(&order, false).await?;
        say(format!("{} is orchestrated again\n", control.role))
    }
}

#[derive(Debug, clap::Args)]
pub struct Protect {
    /// The node; without it, the one whose agent is asked.
    node: Option<NodeId>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
pub struct Unprotect {
    /// The node; without it, the one whose agent is asked.
    node: Option<NodeId>,
    #[command(flatten)]
    access: Access,
}

impl Protect {
    pub async fn run(self) -> anyhow::Result<()> {
        let view = Api::new(&self.access)?.of_node(self.node.as_ref()).await?.order_protect(true).await?;
        say(format!("{} is protected: no plan drains it; an operator still can\n", view.node))
    }
}

impl Unprotect {
    pub async fn run(self) -> anyhow::Result<()> {
        let view = Api::new(&self.access)?.of_node(self.node.as_ref()).await?.order_protect(false).await?;
        say(format!("{} is no longer protected\n", view.node))
    }
}
