//! What a node is doing about its view.

/// Where a node is between one view and the next.
///
/// ```text
///            all shards entered            a proposal is answered
///  Entering ───────────────────▶ Acting ──────────────────────────▶ Fencing ◀─┐ a higher
///     ▲                            │                        all shards │      │ proposal
///     │                            │ a view                    fenced  ▼      │
///     │ on disk                    ▼                                Answered ─┘
///     └───────────────────────  Storing ◀── a view ── (any of the four) ┘
///
///  Ended: from anywhere.
/// ```
///
/// The node acts in its view in `Acting`, `Fencing` and `Answered`: what needs nobody that a
/// proposal drops goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The view is on disk; the shards have been told, some have not confirmed.
    Entering,
    /// All shards act in the view.
    Acting,
    /// A proposal is being answered: the shards are asked for their log ends.
    Fencing,
    /// The answer is sent; a view is awaited.
    Answered,
    /// A newer view is on its way to the disk.
    Storing,
    /// The process has asked to end.
    Ended,
}

impl State {
    /// Whether the node acts in its view.
    pub(super) fn acts(self) -> bool {
        matches!(self, Self::Acting | Self::Fencing | Self::Answered)
    }

    /// Whether nothing may be sealed or confirmed: the answer has told the highest seal.
    pub(super) fn is_frozen(self) -> bool {
        matches!(self, Self::Fencing | Self::Answered | Self::Storing)
    }

    /// Goes to another state.
    ///
    /// # Panics
    /// If there is no such edge.
    pub(super) fn transition(&mut self, to: State) {
        let edge = match (*self, to) {
            (Self::Ended, _) => false,
            (_, Self::Ended | Self::Storing) => true,
            (Self::Storing, Self::Entering) | (Self::Entering, Self::Acting) => true,
            (Self::Acting | Self::Fencing | Self::Answered, Self::Fencing) => true,
            (Self::Fencing, Self::Answered) => true,
            _ => false,
        };
        assert!(edge, "a control core never goes from {self:?} to {to:?}");
        *self = to;
    }
}
