//! `[[schedules]]` of a policy file.

use mtxfleet_leader::engine::Schedule;
use serde::Deserialize;

use crate::config::units;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    cron: String,
    #[serde(default = "utc")]
    time_zone: String,
    lasts: String,
    min: Option<u32>,
    max: Option<u32>,
    spare: Option<f64>,
    #[serde(default)]
    inhibit_scale_down: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// # Errors
/// What is wrong with the first that cannot be read; what its cron and its range are worth is for the policy to say.
pub(super) fn read(value: &toml::Value) -> Result<Vec<Schedule>, String> {
    let raw: Vec<Raw> = value.clone().try_into().map_err(|error| format!("schedules: {}", error.to_string().trim()))?;
    let schedule = |raw: Raw| {
        let lasts = units::duration(&raw.lasts).map_err(|why| format!("schedules: {:?}: lasts: {why}", raw.name))?;
        Ok(Schedule {
            name: raw.name,
            cron: raw.cron,
            time_zone: raw.time_zone,
            lasts,
            min: raw.min,
            max: raw.max,
            spare: raw.spare,
            inhibit_scale_down: raw.inhibit_scale_down,
        })
    };
    raw.into_iter().map(schedule).collect()
}
