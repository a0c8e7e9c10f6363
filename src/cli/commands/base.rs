//! `gantry base`: the base images that functions are built on.

use std::time::Instant;

use crate::base::{BaseError, Definitions, Variant};
use crate::build::BuildError;
use crate::cli::args::{BaseBuildArgs, BaseCommand};
use crate::cli::error::CommandError;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::cli::table::{short, table};
use crate::ops::{self, BaseRequest};
use crate::policy::Verbosity;

/// Carries out one of the commands of `gantry base`.
pub(super) fn base(session: &Session, command: &BaseCommand, report: Option<&Report>) -> Result<u8, CommandError> {
    match command {
        BaseCommand::Ls { format } => match format.wanted() {
            Format::Json => print_json(&names(&variants(session)?)),
            Format::Table if session.verbosity == Verbosity::Quiet => {
                print_line(&names(&variants(session)?).join("\n"))
            }
            Format::Table => print_line(&table(["NAME", "PYTHON", "DESCRIPTION"], variants(session)?)),
        },
        BaseCommand::Build(args) => build(session, args, report),
    }
}

/// A row for each variant.
fn variants(session: &Session) -> Result<Vec<[String; 3]>, CommandError> {
    let definitions = Definitions::load(session.config.base.definitions.as_deref());
    let found = definitions.and_then(|definitions| definitions.variants());
    let found = found.map_err(BaseError::from).map_err(BuildError::from)?;
    let row = |variant: Variant| {
        let wheels = variant.wheels.iter().filter_map(|line| line.split_whitespace().next());
        let description = match wheels.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => variant.definition.description,
            wheels => format!("{}, with {wheels}", variant.definition.description),
        };
        [variant.name, variant.definition.python, description]
    };
    Ok(found.into_iter().map(row).collect())
}

fn names(rows: &[[String; 3]]) -> Vec<&str> {
    rows.iter().map(|[name, ..]| name.as_str()).collect()
}

fn build(session: &Session, args: &BaseBuildArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let started = Instant::now();
    let narrator = Narrator::new(session.verbosity);
    let request = BaseRequest {
        name: args.variant.clone(),
        settings: ops::base_settings(&session.config, &session.environment),
        allow_degraded: session.allow_degraded(&args.allow_degraded),
    };
    let resolver = || ops::resolver(&session.config, &session.environment);
    let made = ops::build_base(&session.store, &request, &resolver, &narrator);
    narrator.finish();
    let base = made?;
    report.map_or(Ok(()), |report| report.write(&base))?;
    let took = started.elapsed().as_secs_f64();
    narrator.done(&format!(
        "Built base {} {}: {took:.1} s",
        base.name,
        short(&base.digest)
    ));
    if report.is_some_and(Report::takes_standard_output) {
        return Ok(0);
    }
    print_line(&base.digest)
}
