//! `gantry base`: the base images that functions are built on.

use crate::base::{default_python, variant_names};
use crate::cli::args::{BaseBuildArgs, BaseCommand};
use crate::cli::error::CommandError;
use crate::cli::output::{print_json, print_line};
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::ops::{self, BaseRequest};

/// Carries out one of the commands of `gantry base`.
pub fn base(session: &Session, command: &BaseCommand, report: Option<&Report>) -> Result<u8, CommandError> {
    match command {
        BaseCommand::Ls { json: true } => print_json(&variant_names()),
        BaseCommand::Ls { json: false } => {
            for name in variant_names() {
                print_line(&name)?;
            }
            Ok(0)
        }
        BaseCommand::Build(args) => build(session, args, report),
    }
}

fn build(session: &Session, args: &BaseBuildArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let narrator = Narrator::new();
    let request = BaseRequest {
        name: args.variant.clone(),
        settings: ops::base_settings(&session.config),
        allow_degraded: session.allow_degraded(&args.allow_degraded),
    };
    let resolver = || ops::resolver(&session.config, &session.environment, default_python());
    let made = ops::build_base(&session.store, &request, &resolver, &narrator);
    narrator.finish();
    let base = made?;
    report.map_or(Ok(()), |report| report.write(&base))?;
    if report.is_some_and(Report::takes_standard_output) {
        return Ok(0);
    }
    print_line(&base.digest)
}
