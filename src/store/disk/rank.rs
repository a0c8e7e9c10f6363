//! The kinds of locks of a store, and the order in which a thread may wait for several.

use std::time::Duration;

/// A source distribution's build says nothing until its end, which comes after ten minutes at the latest.
const QUIET_BUILD: Duration = Duration::from_secs(600);

/// The kinds of locks, in the order in which a thread may wait for several: for one only while all that it holds stand
/// before it. Debug builds check that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Rank {
    /// `locks/collector`: shared by all that make or look up. The collector, which wants it alone, only tries.
    Collector,
    /// `locks/builds`: shared by builds, which use what only memos lead to. Taken alone by evictions, which only try.
    Builds,
    /// `leases/<hex>`: shared by all that use an image. Taken alone by the collector, which only tries.
    Lease,
    /// Single flight around a resolution that may build source distributions: most of the following happens inside it.
    Workshop,
    /// Single flight of the build of one source distribution.
    Sdist,
    /// Single flight of a resolution that builds nothing.
    Resolution,
    /// Single flight of a base whose packages are looked up again.
    Relock,
    /// Single flight of a layer.
    Layer,
    /// Single flight of a program that builds need.
    Tool,
    /// Single flight of the question what a tag means.
    Tag,
    /// Single flight of an image that is pulled: its layers, which images share, are waited for inside it.
    Image,
    /// `partial/<hex>`: a download under way.
    Download,
    /// Single flight of a layer's tree. Nothing is waited for inside it, nor inside the following.
    Unpack,
    /// A file that is read whole once.
    Stamp,
    /// `locks/making-room`: one plan at a time of what goes for the limits of a store or a full disk, until what goes is gone.
    Room,
    /// `locks/eviction`: one eviction at a time; an image that came waits for it once before it is looked at.
    Eviction,
    /// The names and `index.json`.
    Index,
}

impl Rank {
    /// How long a holder may give no sign of life, on top of what all may.
    pub(super) fn quiet(self) -> Duration {
        match self {
            Self::Workshop | Self::Sdist => QUIET_BUILD,
            Self::Collector
            | Self::Builds
            | Self::Lease
            | Self::Resolution
            | Self::Relock
            | Self::Layer
            | Self::Tool
            | Self::Tag
            | Self::Image
            | Self::Download
            | Self::Unpack
            | Self::Stamp
            | Self::Room
            | Self::Eviction
            | Self::Index => Duration::ZERO,
        }
    }

    /// Whether it only saves work: who has waited for too long does the work beside the holder.
    pub(super) fn can_be_done_beside(self) -> bool {
        matches!(self, Self::Tag | Self::Image)
    }

    /// Whether it belongs to a step that is shown, so that a wait for it is announced at once.
    pub(super) fn is_shown(self) -> bool {
        match self {
            Self::Workshop
            | Self::Sdist
            | Self::Resolution
            | Self::Relock
            | Self::Layer
            | Self::Tag
            | Self::Image
            | Self::Download => true,
            Self::Collector
            | Self::Builds
            | Self::Lease
            | Self::Tool
            | Self::Unpack
            | Self::Stamp
            | Self::Room
            | Self::Eviction
            | Self::Index => false,
        }
    }

    /// Who holds it, before it is known who.
    pub(super) fn other(self) -> &'static str {
        match self {
            Self::Workshop | Self::Sdist | Self::Resolution | Self::Relock | Self::Layer => "another build",
            Self::Collector
            | Self::Builds
            | Self::Lease
            | Self::Tool
            | Self::Tag
            | Self::Image
            | Self::Download
            | Self::Unpack
            | Self::Stamp
            | Self::Room
            | Self::Eviction
            | Self::Index => "another process",
        }
    }
}
