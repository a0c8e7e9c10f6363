use std::os::unix::process::ExitStatusExt;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Program {
    Program::new("/bin/sh", LONG)
        .args(["-c", script])
        .env("PATH", "/usr/bin:/bin")
}

/// Whether the process `number` is there, dead but not waited for or not.
fn is_there(number: &str) -> bool {
    assert!(
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()),
        "{number:?}"
    );
    Path::new("/proc").join(number).exists()
}

#[test]
fn a_program_has_what_it_is_given_and_nothing_else() {
    let output =
        shell("cat; echo \"$A $B\"; env | wc -l; ls /proc/self/fd | wc -l; grep -c NoNewPrivs:.1 /proc/self/status")
            .env("A", "one")
            .envs([("B", "two")])
            .run()
            .unwrap();
    // PWD, SHLVL or _ are the shell's own.
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("one two", "4", "1"), "{text}");
    assert!(lines[1].parse::<u32>().unwrap() <= 6, "{text}");
}

#[test]
fn exit_code_signal_and_both_streams_come_back() {
    let output = shell("echo out; echo err >&2; exit 7").run().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()),
        (Some(7), b"out\n".as_slice(), b"err\n".as_slice())
    );
    let output = shell("kill -TERM $$").run().unwrap();
    assert_eq!(output.status.signal(), Some(15));
    let directory = tempfile::tempdir().unwrap();
    let output = shell("pwd").current_dir(directory.path()).run().unwrap();
    assert_eq!(output.stdout, format!("{}\n", directory.path().display()).into_bytes());
}

#[test]
fn at_its_deadline_a_program_ends_with_all_it_has_started() {
    let script = "trap '' TERM; sleep 1000 & echo $! >&2; setsid sleep 1000 & echo $! >&2; sh -c 'setsid sleep 1000 & echo $! >&2'; echo $$ >&2; wait";
    let mut program = shell(script);
    program.deadline = Duration::from_millis(400);
    let error = program.run().unwrap_err();
    let ProgramError::Deadline { program, said, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(program, "/bin/sh");
    assert_eq!(error.to_string(), "run /bin/sh: it has not ended after 0.4 seconds");
    let said = String::from_utf8_lossy(said);
    assert_eq!(said.lines().count(), 4, "{said}");
    for number in said.lines() {
        assert!(!is_there(number), "{number}");
    }
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; sh -c 'setsid sleep 1000 & echo $!'";
    let output = shell(script).run().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().all(|number| !is_there(number)), "{text}");
}

#[test]
fn a_program_that_writes_too_much_is_ended() {
    for (script, expected) in [("yes", "output"), ("yes >&2", "error")] {
        let error = shell(script).output_limit(1000).run().unwrap_err();
        let ProgramError::Output { stream, limit, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((stream, limit), (expected, 1000));
    }
    let output = shell("head -c 1000 /dev/zero").output_limit(1000).run().unwrap();
    assert_eq!(output.stdout.len(), 1000);
}

#[test]
fn a_program_that_is_not_there_is_an_error_of_its_start() {
    let error = Program::new("/nonexistent/program", LONG).run().unwrap_err();
    let ProgramError::Start { program, source } = error else {
        panic!("{error}")
    };
    assert_eq!(
        (program.as_str(), source.kind()),
        ("/nonexistent/program", io::ErrorKind::NotFound)
    );
}

#[test]
fn many_programs_at_once_do_not_hold_each_others_lifelines() {
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut program = shell("sleep 1000");
                program.deadline = Duration::from_millis(50);
                assert!(matches!(program.run(), Err(ProgramError::Deadline { .. })));
                assert!(shell("true").run().unwrap().status.success());
            });
        }
    });
}
