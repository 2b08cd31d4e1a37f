//! What the machine wants done.

use mtxfleet_wire::{DrainRecord, LegNotice, Phase};

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Tell the load balancers `drain` from now on.
    LeaveBalancers,
    /// Tell these workers that they will have to move.
    Notify(Vec<LegNotice>),
    /// Order these legs to move now.
    Move(Vec<LegNotice>),
    /// End this session at MediaMTX.
    Disconnect {
        session: String,
    },
    PhaseEntered(Phase),
    /// It was cancelled: the node goes back into service.
    Cancelled(DrainRecord),
    /// All five phases are behind it: the node is out of service.
    Ended(DrainRecord),
}
