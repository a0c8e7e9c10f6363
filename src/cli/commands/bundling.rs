//! `gantry bundle`: an image for another runtime.

use std::io::{self, Write};

use crate::cli::bundle_args::BundleArgs;
use crate::cli::error::CommandError;
use crate::cli::output::print_line;
use crate::cli::report::Report;
use crate::cli::session::Session;
use crate::cli::table::table;
use crate::ops::{self, BundleRequest, BundleRoot, Elsewhere, Wanted};
use crate::policy::{Bytes, NetworkMode, Verbosity};

/// Makes the bundle, and says what another runtime does not keep.
pub(super) fn bundle(session: &Session, args: &BundleArgs, report: Option<&Report>) -> Result<u8, CommandError> {
    let wanted = Wanted {
        reference: Some(args.reference.clone()),
        input: args.input.clone(),
        output: args.output.clone(),
        env: args.env.clone(),
        limits: args.limits(),
        network: Some(if args.loopback {
            NetworkMode::Loopback
        } else {
            NetworkMode::None
        }),
        entrypoint: args.entrypoint.clone(),
        args: args.args.clone(),
        ..Wanted::default()
    };
    let request = BundleRequest {
        run: wanted.request(&session.config.run, &session.config.limits)?,
        directory: args.directory.clone(),
        id: if args.id == "0" { 0 } else { 1000 },
        root: if args.unpack {
            BundleRoot::Unpacked
        } else {
            BundleRoot::Layers
        },
    };
    let made = ops::make_bundle(&session.store, &request)?;
    if let Some(report) = report {
        report.write(&made)?;
    }
    if session.verbosity > Verbosity::Quiet {
        let rows = made.promises.iter().filter(|promise| promise.state != Elsewhere::Said);
        let rows = rows.map(|promise| {
            let state = serde_json::to_value(promise.state).ok();
            let state = state.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
            [
                promise.promise.name().to_owned(),
                state.to_owned(),
                promise.why.to_owned(),
            ]
        });
        let what = match made.root {
            BundleRoot::Unpacked => format!("{} in {} files and directories", Bytes(made.bytes), made.entries),
            BundleRoot::Layers => {
                "its layers are those of the store, which keeps them as long as it has the image".to_owned()
            }
        };
        let rows = table(["PROMISE", "ELSEWHERE", "WHY"], rows.collect());
        drop(writeln!(
            io::stderr(),
            "Bundle of {}: {what}. What another runtime does not keep of a run here, or may not:\n{rows}",
            made.reference
        ));
    }
    print_line(&made.directory.display())
}
