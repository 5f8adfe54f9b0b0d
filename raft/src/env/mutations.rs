//! What is broken on purpose, so that the simulator shows that its oracle can fail. Compiled to "nothing" without feature `sim`.

/// Each line is one mutation: the simulator must catch it within a few seeds.
macro_rules! mutations {
    ($($(#[$about:meta])* $name:ident = $flag:literal,)*) => {
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Mutations {
            $($(#[$about])* pub $name: bool,)*
        }

        impl Mutations {
            pub(crate) const NONE: Mutations = Mutations { $($name: false,)* };
            /// Every mutation, alone, by the name it has on the command line.
            pub const ALL: &[(&str, Mutations)] = &[$(($flag, Mutations { $name: true, ..Mutations::NONE }),)*];
        }
    };
}

mutations! {
    /// A client is answered as soon as the leader holds its batch, before a majority does.
    ack_before_commit = "ack-before-commit",
    /// A vote is kept in memory only: a restarted node votes again in the same term.
    forgotten_vote = "forgotten-vote",
    /// A replica whose partition moves away takes its promises with it: one that comes back votes as if it had never voted.
    forgotten_farewells = "forgotten-farewells",
    /// A restarted node forgets the producers of what it had committed: a retry is stored twice.
    forgotten_producers = "forgotten-producers",
    /// Appends and votes are acknowledged without `fdatasync`.
    no_fsync = "no-fsync",
    /// A failed sync is taken for a good one.
    ignored_sync_error = "ignored-sync-error",
    /// A snapshot claims to stand for all that has been applied, not for what has been purged: whoever is sent it has a hole.
    snapshot_too_new = "snapshot-too-new",
    /// A follower votes whenever it is asked, whoever counts on it.
    sleepers_vote = "sleepers-vote",
    /// A leader counts what any process of a follower's node acknowledges, whatever became of its promise.
    any_bond_counts = "any-bond-counts",
    /// A damaged replica is cut at its damage, and opened as if nothing had been behind it.
    trust_damaged = "trust-damaged",
    /// Nobody asks whether a data folder is as old as peers remember it.
    trust_old_votes = "trust-old-votes",
    /// A follower that is to drop its tail keeps one entry too many.
    truncate_off_by_one = "truncate-off-by-one",
}

impl Mutations {
    /// The mutation of that name.
    pub fn named(name: &str) -> Option<Mutations> {
        Mutations::ALL.iter().find(|(flag, _)| *flag == name).map(|(_, mutations)| *mutations)
    }
}
