//! `mtxfleet`: parse, build, run.

use std::process::ExitCode;

use clap::Parser;
use mtxfleet::command::{
    agent, availability, check_config, control, decisions, drain, local_cloud, relay, render, simulate, status,
    streams, undrain,
};
use mtxfleet::config::ConfigErrors;

/// Takes MediaMTX servers out of service without losing one video frame.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Run beside a MediaMTX server.
    Agent(agent::Agent),
    /// Take a node out of service, in five phases.
    Drain(drain::Drain),
    /// Cancel a drain, or bring a drained node back.
    Undrain(undrain::Undrain),
    /// Show the fleet.
    Status(status::Status),
    /// Show every stream and who reads it where.
    Streams(streams::Streams),
    /// Show what the orchestrators decided, and why; also why nothing is done.
    Decisions(decisions::Decisions),
    /// Let a role's orchestrator decide and do nothing, until it is resumed.
    Pause(control::Pause),
    /// Let a role's orchestrator act again.
    Resume(control::Resume),
    /// Keep a node: no plan drains it.
    Protect(control::Protect),
    /// Let plans drain a node again.
    Unprotect(control::Unprotect),
    /// Show how available clusters, nodes and streams were, over a day, a week and a month.
    Availability(availability::Availability),
    /// Serve streams locally, over URLs that never break, to programs that know nothing of the fleet.
    Relay(relay::Relay),
    /// Print the mediamtx.yml or haproxy.cfg that fits a configuration.
    Render(render::Render),
    /// Try a scaling policy on weeks of virtual time, beside its peers.
    Simulate(simulate::Simulate),
    /// Start and end nodes on this machine, as a cloud's autoscaling groups do.
    LocalCloud(local_cloud::LocalCloud),
    /// Check a configuration file, and say everything that is wrong with it.
    CheckConfig(check_config::CheckConfig),
}

// One thread: an agent has little to do, and must cost little.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Agent(agent) => agent.run().await,
        Command::Drain(drain) => drain.run().await,
        Command::Undrain(undrain) => undrain.run().await,
        Command::Status(status) => status.run().await,
        Command::Streams(streams) => streams.run().await,
        Command::Decisions(decisions) => decisions.run().await,
        Command::Pause(pause) => pause.run().await,
        Command::Resume(resume) => resume.run().await,
        Command::Protect(protect) => protect.run().await,
        Command::Unprotect(unprotect) => unprotect.run().await,
        Command::Availability(availability) => availability.run().await,
        Command::Relay(relay) => relay.run().await,
        Command::Render(render) => render.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::LocalCloud(cloud) => cloud.run().await,
        Command::CheckConfig(check) => check.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Errors of a configuration begin with file and line, which editors jump to.
            match error.downcast_ref::<ConfigErrors>() {
                Some(errors) => eprintln!("{errors}"),
                None => eprintln!("mtxfleet: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}
