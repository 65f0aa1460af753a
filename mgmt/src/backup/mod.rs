//! Backups from outside: what the command line does with them.
//!
//! * [`ask`]: a word with a management server, which makes and removes them;
//! * [`files`]: the files of a finished one, opened and verified;
//! * [`restore`]: its rows into a running cluster of any shape, by the client library.

pub mod ask;
pub mod files;
pub mod restore;
