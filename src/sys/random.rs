//! Random bytes that nobody can guess.

use nix::errno::Errno;

pub fn bytes<const N: usize>() -> Result<[u8; N], Errno> {
    const { assert!(N <= 256, "so few come whole, and no signal interrupts them") };
    let mut bytes = [0; N];
    // SAFETY: N writable bytes.
    Errno::result(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) })?;
    Ok(bytes)
}

/// For a name that nobody else has chosen.
pub fn number() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
