//! Everything that can go wrong. A new fault is a function and a line in [`FAULTS`].

mod clock;
pub(super) mod decay;
mod disk;
mod moves;
mod network;
mod plots;
mod power;

use super::phases::Run;

/// One kind of disaster.
pub(in crate::sim) struct Fault {
    pub name: &'static str,
    /// Chances in [`CHANCES`] that it begins in a given millisecond.
    pub chances: u32,
    /// Part of every run; the others are part of some.
    pub always: bool,
    /// Begins it, and has [`Run::mend_after`] undo it; false where it is not possible now.
    pub begin: fn(&mut Run) -> bool,
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

pub(in crate::sim) const CHANCES: u32 = 10_000;

pub(in crate::sim) const FAULTS: &[Fault] = &[
    Fault { name: "clock-drift", chances: 8, always: false, begin: clock::drift },
    Fault { name: "clock-jump", chances: 8, always: false, begin: clock::jump },
    Fault { name: "decay", chances: 40, always: true, begin: decay::decay },
    Fault { name: "disk-failed", chances: 8, always: false, begin: disk::fail },
    Fault { name: "disk-full", chances: 8, always: false, begin: disk::fill },
    Fault { name: "disk-hangs", chances: 8, always: false, begin: disk::hang },
    Fault { name: "disk-slow", chances: 8, always: false, begin: disk::slow_down },
    Fault { name: "move", chances: 25, always: true, begin: moves::start },
    Fault { name: "network-cut", chances: 15, always: true, begin: network::cut },
    Fault { name: "network-cut-one-way", chances: 8, always: false, begin: network::cut_one_way },
    Fault { name: "network-flaps", chances: 8, always: false, begin: network::flap },
    Fault { name: "network-lingers", chances: 8, always: false, begin: network::linger },
    Fault { name: "network-loses", chances: 8, always: false, begin: network::lose },
    Fault { name: "network-slow", chances: 8, always: false, begin: network::slow_down },
    Fault { name: "network-stalls", chances: 8, always: false, begin: network::stall },
    Fault { name: "power-cut", chances: 8, always: true, begin: power::cut_one },
    Fault { name: "power-cut-of-all", chances: 3, always: true, begin: power::cut_all },
    Fault { name: "process-killed", chances: 8, always: true, begin: power::kill },
];

const fn plot(name: &'static str, chances: u32, begin: fn(&mut Run) -> bool) -> Fault {
    Fault { name, chances, always: false, begin }
}

/// Disasters in several acts.
pub(in crate::sim) const PLOTS: &[Fault] = &[
    plot("answer-lost", 12, plots::lose_an_answer),
    plot("killed-dropping", 12, plots::kill_who_drops),
    plot("long-and-old", 12, plots::leave_a_long_log),
    plot("old-disk-among-few", 24, plots::old_disk_among_few),
    plot("old-tail-resumed", 12, plots::resume_an_old_tail),
    plot("sleeper-cut", 24, plots::cut_a_sleeper),
    plot("slow-leader-cut", 12, plots::cut_a_slow_leader),
    plot("split-votes", 12, plots::split_votes),
    plot("successor-dies", 12, plots::kill_a_successor),
    plot("voter-killed", 12, plots::kill_a_voter),
];

/// Those that need nodes without a replica.
pub(in crate::sim) const PLOTS_OF_MANY: &[Fault] = &[
    plot("killed-between", 20, plots::kill_between),
    plot("move-away-and-back", 20, plots::move_away_and_back),
    plot("removed-comes-back", 20, plots::bring_back_the_removed),
];
