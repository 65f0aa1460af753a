//! The tables and the product's source name the same marks, and whoever is said to reach a mark
//! that no profile owes says so itself.

use std::collections::BTreeSet;

use super::*;
use crate::tidy::{Tree, root};

/// Marks that no profile owes, and who reaches them: a unit test, by its file, or a script.
const ELSEWHERE: &[(&str, &str)] = &[
    // The arbitrator's rarer answers need a server in one particular state.
    ("arbitrator_asked_again", "mgmt/src/core/tests.rs"),
    ("arbitrator_asked_in_vain", "mgmt/src/core/tests.rs"),
    ("arbitrator_without_register", "mgmt/src/core/tests.rs"),
    ("registration_refused", "mgmt/src/core/tests.rs"),
    ("mgmt_copy_received", "mgmt/src/core/tests.rs"),
    // Simulated clusters begin with view 1 on disk; creation is tested by itself.
    ("cluster_created", "mgmt/src/core/tests.rs"),
    ("newcomer_admitted_again", "mgmt/src/core/tests.rs"),
    ("newcomer_refused", "mgmt/src/core/tests.rs"),
    // A race of two presidents that differ in whom they have told.
    ("number_taken", "cluster/tests/control.rs"),
];
