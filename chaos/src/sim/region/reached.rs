//! How often a run reached what it is there to reach: a run that met no danger proves nothing.

use crate::sim::Counter;
use crate::sim::sweep::{SEEDS_PROVING, SEEDS_PROVING_RARE};

/// One line a counter: `required` ones fail a range of seeds that never reached them, `rare` ones only a long range.
macro_rules! reached {
    ($($(#[$about:meta])* $need:ident $name:ident;)*) => {
        #[derive(Debug, Default)]
        pub(super) struct Reached {
            $($(#[$about])* pub $name: u64,)*
        }

        impl Reached {
            pub fn table(&self) -> Vec<Counter> {
                vec![$(Counter { name: stringify!($name).to_owned(), count: self.$name, required_of: reached!(@ $need) },)*]
            }
        }
    };
    (@ required) => { Some(SEEDS_PROVING) };
    (@ rare) => { Some(SEEDS_PROVING_RARE) };
}

reached! {
    // What clients saw.
    required acknowledged;
    /// Appends that ended without an answer, or with a refusal that leaves their fate open.
    required unknown;
    required duplicates_recognised;
    /// Batches that were read while the world broke.
    required reads;
    /// Leases seen to be held.
    required leases;
    /// Leaders, each in a term of its own.
    required terms;
    /// Logs that went another way than the group's, and dropped their tail.
    required tails_dropped;
    /// Log starts that were raised for a client.
    required records_deleted;
    /// Replicas so far behind that they were given the log's new beginning.
    required filled_up;

    /// Partitions whose new voters were committed, and that were told so.
    required moves;
    /// Moves that a leader could not bring to an end.
    required moves_interrupted;
    /// Moves told to go back while under way.
    rare moves_taken_back;
    /// Power cuts of a node while two sets of voters had to agree in one of its groups.
    rare joint_power_cuts;
    /// Replicas that fell asleep, and that woke.
    required quiesced;
    required woken;
    /// Leaders that handed over to another.
    required transfers;

    // Faults.
    required power_cuts;
    /// Power cuts of a node that led.
    required leaders_cut;
    /// Power cuts after which the node's address was silent, and refused no connection.
    required dark_cuts;
    /// Processes that were gone while their machine went on, and read what they had not synced when they came back.
    required kills;
    required network_cuts;
    required one_way_cuts;
    required flaps;
    required losses;
    required latency_spikes;
    /// Links that delivered nothing for a while, and then everything.
    required stalls;
    required clock_jumps;
    required clock_drifts;
    /// Disks that failed syncs or writes.
    required failed_disks;
    /// Disks that became full under a running node, which refused new data from then on.
    required disks_full;
    required slow_disks;
    /// Disks that let nothing become durable for longer than an election takes.
    required disks_hung;
    /// Nodes that ended themselves because their disk failed.
    required fail_stops;
    /// Bits flipped in files of a node that was down, files cut, deleted, or replaced by older copies.
    required decays;
    /// Of them, those that took a node's votes: its meta log damaged, or its whole disk old or empty.
    required votes_lost;
    /// Bits flipped beneath a node that was running.
    rare rotten_beneath;
    /// Disks that came back old while the only other that knew what they lacked was down.
    rare old_among_few;
    /// Partitions that came back to two of their nodes which heard only each other.
    rare moved_back;
    /// Sleeping leaders that heard of a follower again when it had just elected another.
    rare sleepers_cut;
    /// Connections that were read only when others had taken their place.
    rare connections_lingered;
    /// Terms that nobody led: votes were split, or a candidate was lost.
    required terms_without_leader;
    /// Successors that were killed when they had been offered the lead.
    rare successors_killed;
    /// Deposed leaders that had stored what nobody else had, and were stopped over dropping it.
    rare tails_contested;
    /// Leaders of before that were elected again with entries of their old term that no majority had.
    rare old_tails_resumed;
    /// Replicas cut off with a longer log than the leader of a later term.
    rare longer_logs_deposed;
    /// Followers that died when they had made durable what nobody knew they had.
    rare answers_lost;
    /// Leaders that lost power while only their own disk was slow.
    rare slow_leaders_cut;
    /// Voters that were killed when they had just become such, while two sets of voters had to agree.
    rare newcomers_killed;
    /// Replicas that were voted out while they were cut off, and came back.
    rare removed_returned;
    /// Voters that were killed as soon as their vote had made a leader, and asked by another then.
    rare voters_killed;
    /// Damaged replicas that were brought back by their peers.
    required repairs;
}
