//! `gantry doctor`: prints the diagnosis as text or JSON; its verdict is the exit code.

use std::path::PathBuf;

use crate::cli::args::DoctorArgs;
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::session::Session;
use crate::ops::doctor::{self, Diagnosis, RuntimeFinding, Verdict};
use crate::ops::RunError;
use crate::policy::{Bytes, Level, Runtime, Verbosity};

/// Examines this machine and prints what was found.
pub(super) fn examine(session: &Session, args: &DoctorArgs) -> Result<u8, CommandError> {
    let diagnosis = doctor::examine(&session.store, &session.config, &session.environment)?;
    match args.format.wanted() {
        Format::Json => print_json(&diagnosis)?,
        Format::Table => {
            let shown = match session.verbosity {
                Verbosity::Quiet => Shown::Amiss,
                Verbosity::Normal | Verbosity::Verbose => Shown::All,
            };
            let text = render(&diagnosis, shown);
            match text.trim_end() {
                "" => 0,
                text => print_line(&escape(text))?,
            }
        }
    };
    Ok(match diagnosis.verdict {
        Verdict::Ok => 0,
        Verdict::Degraded => 3,
        Verdict::Unusable => 4,
    })
}

/// Holds a sandbox open until this process is killed; the doctor's attack on our own death starts it.
pub(crate) fn hold(words: &[PathBuf]) -> Result<u8, CommandError> {
    let [scaffold, layer, marker, runtime] = words else {
        return Err(CommandError::Usage("--hold needs four words".to_owned()));
    };
    let runtime = runtime.to_string_lossy().parse().map_err(CommandError::Usage)?;
    doctor::hold(scaffold, layer, &marker.to_string_lossy(), runtime).map_err(RunError::from)?;
    Ok(0)
}

/// What is printed of a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    All,
    /// What is not well, and nothing when all is.
    Amiss,
}

/// The states of what is as it should be, or is only told.
const WELL: [&str; 4] = ["", "there", "works", "fine"];

fn render(diagnosis: &Diagnosis, shown: Shown) -> String {
    let mut text = String::new();
    let mut line = |name: &str, state: &str, evidence: &str, more: &[(&str, &str)]| {
        if shown == Shown::Amiss && WELL.contains(&state) {
            return;
        }
        text.push_str(format!("{name:<20} {state:<9} {evidence}").trim_end());
        text.push('\n');
        for (what, words) in more {
            text.push_str(&format!("{:<31}{what}: {words}\n", ""));
        }
    };
    let around = &diagnosis.surroundings;
    let free = around
        .free_bytes
        .map_or("nobody knows how much".to_owned(), |bytes| Bytes(bytes).to_string());
    let configuration = around
        .configuration
        .as_ref()
        .map_or("none".to_owned(), |path| path.display().to_string());
    for (name, value) in [
        ("gantry", around.gantry_version.to_owned()),
        ("kernel", around.kernel.clone()),
        ("store", format!("{}, {free} free", around.store.display())),
        ("configuration", configuration),
    ] {
        line(name, "", &value, &[]);
    }
    for registry in &around.registries {
        let evidence = format!(
            "{}, priority {}, role {}",
            registry.host, registry.priority, registry.role
        );
        let state = match registry.is_well() && shown == Shown::Amiss {
            true => String::new(),
            false => registry.state(),
        };
        line("registry", &state, &evidence, &[]);
    }
    for tool in &around.programs {
        let state = if tool.path.is_some() { "there" } else { "not there" };
        let path = tool.path.as_ref().map(|path| path.display().to_string());
        let found: Vec<&str> = [path.as_deref(), tool.version.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        line(tool.name, state, &found.join(": "), &[("builds", tool.used)]);
    }
    for (promise, finding) in &diagnosis.promises {
        if shown == Shown::Amiss && !diagnosis.allow_degraded.contains(promise) {
            continue;
        }
        let level = match finding.level {
            Level::Enforced => "enforced",
            Level::Watched => "watched",
            Level::Absent => "absent",
        };
        let fix = finding.fix.as_deref().map(|fix| ("fix", fix));
        let means = finding
            .means
            .map(|means| [("runs", means.runs), ("builds", means.builds)]);
        let more: Vec<_> = means.into_iter().flatten().chain(fix).collect();
        line(promise.name(), level, &finding.evidence, &more);
    }
    for (runtime, found) in &diagnosis.runtimes {
        let state = if found.works { "works" } else { "broken" };
        line(&format!("runtime {runtime}"), state, &evidence_of(*runtime, found), &[]);
    }
    if let Some(error) = &diagnosis.error {
        line("sandbox", "unusable", error, &[]);
    }
    for seen in &diagnosis.host {
        let state = if seen.fine { "fine" } else { "warning" };
        let fix: Vec<_> = seen.fix.map(|fix| ("fix", fix)).into_iter().collect();
        line(&format!("host {}", seen.name), state, &seen.evidence, &fix);
    }
    let lost: Vec<&str> = diagnosis.allow_degraded.iter().map(|promise| promise.name()).collect();
    let verdict = match diagnosis.verdict {
        Verdict::Ok => "ok: every promise is enforced".to_owned(),
        Verdict::Degraded => format!(
            "degraded: a run has to accept what is not enforced, by --allow-degraded {} or allow_degraded under [run] of the configuration",
            lost.join(",")
        ),
        Verdict::Unusable => unusable(diagnosis),
    };
    match (shown, diagnosis.verdict) {
        (Shown::Amiss, Verdict::Ok) => text,
        _ => text + &verdict,
    }
}

fn evidence_of(runtime: Runtime, found: &RuntimeFinding) -> String {
    let differs = found.differs.as_deref();
    match (&found.error, found.chosen, differs) {
        (Some(error), ..) => error.clone(),
        (None, true, _) => "makes the containers of runs (runtime under [run] of the configuration)".to_owned(),
        (None, false, None) => format!("the chosen one does not: run with {}", other_way(runtime)),
        (None, false, Some([])) => "keeps every promise as surely".to_owned(),
        (None, false, Some(differs)) => {
            let differs: Vec<&str> = differs.iter().map(|promise| promise.name()).collect();
            format!("differs in {}", differs.join(", "))
        }
    }
}

fn unusable(diagnosis: &Diagnosis) -> String {
    let works = diagnosis
        .runtimes
        .iter()
        .find(|(_, found)| found.works && !found.chosen);
    match works {
        Some((runtime, _)) => format!("unusable: runs work here only with {}", other_way(*runtime)),
        None => "unusable: nothing can run here".to_owned(),
    }
}

fn other_way(runtime: Runtime) -> String {
    format!("--runtime {runtime}, or runtime = \"{runtime}\" under [run] of the configuration")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Promise;

    fn found(chosen: bool, differs: Option<Vec<Promise>>, error: Option<&str>) -> RuntimeFinding {
        RuntimeFinding {
            works: error.is_none(),
            chosen,
            differs,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn a_runtime_is_praised_only_when_it_was_compared() {
        let says = |found: RuntimeFinding| evidence_of(Runtime::Native, &found);
        assert_eq!(says(found(false, Some(vec![]), None)), "keeps every promise as surely");
        assert_eq!(says(found(false, Some(vec![Promise::Tmp]), None)), "differs in tmp");
        assert_eq!(says(found(true, None, Some("no"))), "no");
        assert_eq!(
            says(found(false, None, None)),
            "the chosen one does not: run with --runtime native, or runtime = \"native\" under [run] of the configuration"
        );
    }
}
