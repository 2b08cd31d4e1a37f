//! Names of things. Each is its own type, so that a stream cannot be given where a node is asked.

use serde::{Deserialize, Serialize};

/// Why a text is no valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: 1 to {max} characters of A-Z a-z 0-9 . _ - ~{and_slash}")]
pub struct InvalidId {
    pub what: &'static str,
    pub text: String,
    pub max: usize,
    pub and_slash: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, max $max:literal, slash $slash:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// # Errors
            /// [`InvalidId`] when the text is empty, too long, or holds other characters than those named there.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                let fits = |c: char| c.is_ascii_alphanumeric() || "._-~".contains(c) || ($slash && c == '/');
                if text.is_empty() || text.len() > $max || !text.chars().all(fits) {
                    let and_slash = if $slash { " /" } else { "" };
                    return Err(InvalidId { what: $what, text, max: $max, and_slash });
                }
                Ok(Self(text))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// Name of the whole fleet; it prefixes every key in Redis.
    ClusterName, "cluster name", max 64, slash false
);
id!(
    /// One machine: a MediaMTX server and its agent.
    NodeId, "node id", max 128, slash false
);
id!(
    /// One camera, one MediaMTX path, such as `cam1` or `site/cam1`.
    StreamName, "stream name", max 256, slash true
);
id!(
    /// An AI process that reads streams, as it names itself.
    WorkerId, "worker id", max 128, slash false
);
id!(
    /// One RTSP connection of a worker to one node; a fresh UUID for each.
    LegId, "leg id", max 64, slash false
);
id!(
    /// One machine as its cloud names it, such as `i-0abc`; [`NodeId`] is how the fleet does.
    InstanceId, "instance id", max 256, slash true
);
id!(
    /// One drain of one node, from order to record.
    DrainId, "drain id", max 192, slash false
);
id!(
    /// One event, for removing repeats: the same event may come by pub/sub, the event log and SSE.
    EventId, "event id", max 256, slash false
);
