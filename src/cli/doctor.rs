//! `gantry doctor`: the diagnosis as text or JSON, and its exit code.

use std::path::PathBuf;

use super::error::CommandError;
use super::escape::escape;
use super::{print_json, print_line};
use crate::ops::doctor::{self, Diagnosis, Verdict};
use crate::ops::RunError;
use crate::policy::Level;
use crate::store::Store;

/// Examines this machine and prints what was found.
pub fn examine(store: &Store, json: bool) -> Result<u8, CommandError> {
    let diagnosis = doctor::examine(store)?;
    if json {
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

/// The hidden half of an attack: see [`doctor::hold`].
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
