//! Trials of a data folder: work on it is cut short or disturbed, what is left is examined.
//!
//! ```text
//!  stream-work append + shim ─► log ─► Disk ─ cut ─► folder ─► stream-work audit ─► Verdict ─► Tally
//! ```

mod audit;
mod cuts;
mod damage;
mod io_errors;
mod kills;
mod tally;

pub use audit::{Auditor, promised_in, work};
pub use cuts::{Cuts, chained_cuts, cuts_of_log, power_cuts};
pub use damage::damage;
pub use io_errors::io_errors;
pub use kills::{Kills, kills};
pub use tally::Tally;
