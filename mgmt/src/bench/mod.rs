//! Closed and open loops beside their floors.

pub mod cpu;
pub mod dice;
pub mod floor;
pub mod measure;
pub mod pace;
