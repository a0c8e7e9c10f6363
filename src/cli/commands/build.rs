//! `gantry build`.

use std::time::{Duration, Instant};

use crate::build::function_naming::FunctionNaming;
use crate::build::image::Created;
use crate::build::BuildError;
use crate::cli::args::BuildArgs;
use crate::cli::error::CommandError;
use crate::cli::output::print_line;
use crate::cli::progress::Narrator;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::cli::table::short;
use crate::journal::{Event, EventKind, ImageType};
use crate::ops::{self, BuildRequest, FunctionIds};
use crate::policy::Bytes;
use crate::python::resolve::LOCK_AGE;
use crate::sys;

/// How the platform names the image, when the arguments say which function it is.
fn function_naming(session: &Session, args: &BuildArgs) -> Result<Option<FunctionNaming>, CommandError> {
    let (Some(function), Some(user), Some(version)) = (&args.function, &args.user, &args.function_version) else {
        return Ok(None);
    };
    let ids = FunctionIds {
        function: function.clone(),
        user: user.clone(),
        version: version.clone(),
        commit: args.commit.clone(),
    };
    let naming = ops::function_naming(&session.config, ids).map_err(BuildError::from)?;
    let own = naming.labels();
    let is_other = |(key, value): &&(String, String)| own.iter().any(|one| one.0 == *key && one.1 != *value);
    if let Some((key, _)) = args.labels.iter().find(is_other) {
        let reason = format!("build --label {key}: --function, --user and --function-version say another value");
        return Err(CommandError::Usage(reason));
    }
    Ok(Some(naming))
}

/// Builds an image and prints the digest of its manifest.
pub(super) fn build(session: &Session, args: &BuildArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let started = Instant::now();
    let (config, environment) = (&session.config, &session.environment);
    let request = BuildRequest {
        directory: args.dir.clone(),
        tag: args.tag.clone(),
        naming: function_naming(session, args)?,
        base: args.base.clone(),
        python: args.python.clone(),
        labels: args.labels.clone(),
        allow_files: args.allow_files.clone(),
        allows_sdists: args.allow_sdist,
        baseline: config.index.baseline.unwrap_or_default(),
        origin: args.from.into(),
        allow_degraded: session.allow_degraded(&args.allow_degraded),
        lock_age: if args.upgrade {
            Duration::ZERO
        } else {
            config.index.max_age.map_or(LOCK_AGE, Duration::from)
        },
        created: match environment.source_date_epoch()? {
            Some(time) => Created::Fixed(time),
            None => Created::Now(sys::clock::now()),
        },
        base_settings: ops::base_settings(config, environment),
        allowed_packages: ops::allowed_packages(config),
    };
    let resolver = || ops::resolver(config, environment);
    let narrator = Narrator::new(session.verbosity);
    let built = ops::build(&session.store, &request, &resolver, &narrator);
    narrator.finish();
    let name = args.tag.as_ref().map(ToString::to_string).unwrap_or_default();
    let (status, error_type) = match &built {
        Ok(_) => ("ok", None),
        Err(error) => ("failed", Some(error.kind().name())),
    };
    let made = built.as_ref().ok();
    let name = made.and_then(|report| report.reference.as_deref()).unwrap_or(&name);
    session.record(&Event {
        digest: made.map(|report| report.digest.to_string()),
        image_type: Some(ImageType::Function),
        bytes: made.map(|report| report.size),
        error_type,
        ..Session::event(EventKind::Build, name, status, started)
    });
    let built = built?;
    report.map_or(Ok(()), |report| report.write(&built))?;
    let reused = built.layers.iter().filter(|layer| layer.reused).count();
    narrator.done(&format!(
        "Built {} {}: {} in {} layers, {reused} of them reused, {:.1} s",
        built.reference.as_deref().unwrap_or("image"),
        short(&built.digest),
        Bytes(built.size),
        built.layers.len(),
        started.elapsed().as_secs_f64()
    ));
    if args.tag.is_none() {
        let id = short(&built.digest);
        narrator.done(&match ops::names_of(&session.store, &built.digest).unwrap_or_default().as_slice() {
            [] => {
                format!("It has no name and is kept for a day. Run it: gantry run {id}   Name it: gantry copy {id} NAME:TAG")
            }
            names @ [name, ..] => format!("It is the image {}. Run it: gantry run {name}", names.join(", ")),
        });
    }
    if report.is_some_and(Report::takes_standard_output) {
        return Ok(0);
    }
    print_line(&built.digest)
}
