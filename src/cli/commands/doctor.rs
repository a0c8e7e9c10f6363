//! `gantry doctor`: prints the diagnosis as text or JSON; its verdict is the exit code.

use std::path::PathBuf;

use crate::cli::args::DoctorArgs;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::ops::doctor::{self, Diagnosis, Verdict};
use crate::ops::RunError;
use crate::policy::Level;

/// Examines this machine and prints what was found.
pub fn examine(session: &Session, args: &DoctorArgs) -> Result<u8, CommandError> {
    let diagnosis = doctor::examine(&session.store)?;
    if args.json {
        print_json(&diagnosis)?;
    } else {
        print_line(&escape(render(&diagnosis).trim_end()))?;
    }
    Ok(match diagnosis.verdict {
        Verdict::Ok => 0,
        Verdict::Degraded => 3,
        Verdict::Unusable => 4,
    })
}

/// Holds a sandbox open until this process is killed; the doctor's attack on our own death starts it.
pub fn hold(words: &[PathBuf]) -> Result<u8, CommandError> {
    let [scaffold, layer, marker] = words else {
        return Err(CommandError::Usage("--hold needs three words".to_owned()));
    };
    doctor::hold(scaffold, layer, &marker.to_string_lossy()).map_err(RunError::from)?;
    Ok(0)
}

fn render(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    let mut line = |name: &str, state: &str, evidence: &str, fix: Option<&str>| {
        text.push_str(&format!("{name:<20} {state:<9} {evidence}\n"));
        if let Some(fix) = fix {
            text.push_str(&format!("{:<31}fix: {fix}\n", ""));
        }
    };
    for (promise, finding) in &diagnosis.promises {
        let level = match finding.level {
            Level::Enforced => "enforced",
            Level::Watched => "watched",
            Level::Absent => "absent",
        };
        line(promise.name(), level, &finding.evidence, finding.fix.as_deref());
    }
    if let Some(error) = &diagnosis.error {
        line("sandbox", "unusable", error, None);
    }
    for seen in &diagnosis.host {
        let state = if seen.fine { "fine" } else { "warning" };
        line(&format!("host {}", seen.name), state, &seen.evidence, seen.fix);
    }
    let verdict = match diagnosis.verdict {
        Verdict::Ok => "ok: every promise is enforced",
        Verdict::Degraded => "degraded: runs need --allow-degraded for what is not enforced",
        Verdict::Unusable => "unusable: nothing can run here",
    };
    text + verdict
}
