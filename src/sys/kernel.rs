//! Questions to the kernel that no crate asks.
#![allow(unsafe_code, reason = "the call has no safe wrapper that only asks")]

/// The version of Landlock; none when the kernel has none or it is not enabled.
pub(crate) fn landlock_abi() -> Option<u32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` (landlock_create_ruleset(2)).
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes a null pointer and size 0, and makes nothing.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// The id of this boot, another one each time the machine starts; none where `/proc` does not say.
pub(crate) fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim_end().to_owned()).filter(|id| !id.is_empty())
}

/// Whether a process has this number now. It may be another one than a moment ago: for messages only.
pub(crate) fn has_process(number: u32) -> bool {
    std::path::Path::new("/proc").join(number.to_string()).exists()
}
