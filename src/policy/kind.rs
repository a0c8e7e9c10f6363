//! What sort of failure an error is. Exit code, report status and "is it worth another try?" follow from the kind alone.

/// The kind of an error. Each error type says its own by an exhaustive match, in `fn kind(&self) -> Kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Something did not work, and the same call would fail again.
    Failed,
    /// The command, its configuration or its job document is wrong.
    Usage,
    /// A rule forbids it: a policy, a limit, or a promise that cannot be kept.
    Refused,
    /// A server, the network or a program that is needed cannot be reached; a later try may succeed.
    Unavailable,
    /// Another process holds what is needed and did not let go in time; a later try may succeed.
    Busy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Failed, Self::Usage, Self::Refused, Self::Unavailable, Self::Busy];

    /// The exit code of a command that ends with such an error (`docs/formats.md`).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unavailable | Self::Busy => 4,
        }
    }

    /// The `status` of the report of a command that ends with such an error.
    pub fn status(self) -> &'static str {
        match self {
            Self::Failed | Self::Usage => "failed",
            Self::Refused => "refused",
            Self::Unavailable | Self::Busy => "unavailable",
        }
    }

    /// The kind in a word, for the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
        }
    }

    /// The kind of a list of failures: worth another try only as long as all are. None when there is none.
    pub fn of_all(kinds: impl IntoIterator<Item = Self>) -> Option<Self> {
        kinds.into_iter().reduce(|all, one| match (all, one) {
            (all, one) if all.is_away() && !one.is_away() => one,
            (Self::Refused, Self::Failed) => Self::Failed,
            (all, _) => all,
        })
    }

    /// Whether what failed lies elsewhere and is only away for now: what is remembered of it may be used instead.
    pub fn is_away(self) -> bool {
        match self {
            Self::Unavailable => true,
            Self::Failed | Self::Usage | Self::Refused | Self::Busy => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_later_try_may_mend_exits_with_4() {
        let retried: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.exit_code() == 4).collect();
        assert_eq!(retried, [Kind::Unavailable, Kind::Busy]);
        // Of several failures one that no try mends decides.
        assert_eq!(Kind::of_all(retried.clone()), Some(Kind::Busy));
        assert_eq!(
            Kind::of_all([Kind::Unavailable, Kind::Refused, Kind::Failed]),
            Some(Kind::Failed)
        );
        assert_eq!(Kind::of_all([]), None);
        assert!(retried.iter().all(|kind| kind.status() == "unavailable"));
    }
}
