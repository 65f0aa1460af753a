//! Records of a partition log: the same bytes travel on the wire, lie in memory, and (later) on
//! disk. Encoded once by the primary, never re-encoded.
