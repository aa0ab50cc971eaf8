//! Whether the clock is kept right.

use std::io;

/// Whether a time service keeps the system's clock right, as far as the kernel knows.
///
/// # Errors
/// Where adjtimex(2) is not allowed.
pub fn is_clock_synchronised() -> io::Result<bool> {
    // SAFETY: a struct of plain integers; all zeros is a value, and asks for no change.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `clock` is the kernel's struct for this call, and outlives it.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(state != libc::TIME_ERROR) }
}
