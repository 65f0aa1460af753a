//! Closed and open loops beside their floors.

pub mod cpu;
pub mod floor;
pub mod measure;
