//! The names of signals, as a person knows them (signal(7)).

/// What the signal `number` of x86-64 is called, such as "segmentation fault"; real-time signals have numbers only.
pub(crate) fn name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "hang-up",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace trap",
        6 => "abort",
        7 => "bus error",
        8 => "arithmetic error",
        9 => "kill",
        10 => "user signal 1",
        11 => "segmentation fault",
        12 => "user signal 2",
        13 => "broken pipe",
        14 => "alarm",
        15 => "termination",
        16 => "stack fault",
        24 => "processor time limit",
        25 => "file size limit",
        26 => "virtual alarm",
        27 => "profiling alarm",
        29 => "input or output",
        30 => "power failure",
        31 => "bad system call",
        _ => return None,
    })
}

/// The signal as a text: `signal 11 (segmentation fault)`.
pub(crate) fn describe(number: i32) -> String {
    match name(number) {
        Some(name) => format!("signal {number} ({name})"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_ends_a_process_has_a_name() {
        // signal(7): those whose default is to stop, to go on, or nothing.
        let harmless = [17, 18, 19, 20, 21, 22, 23, 28];
        for number in (1..32).filter(|number| !harmless.contains(number)) {
            assert!(name(number).is_some(), "{number}");
        }
        assert_eq!(describe(libc::SIGSEGV), "signal 11 (segmentation fault)");
        assert_eq!(describe(libc::SIGSYS), "signal 31 (bad system call)");
        assert_eq!(describe(libc::SIGBUS), "signal 7 (bus error)");
        assert_eq!(describe(40), "signal 40");
    }
}
