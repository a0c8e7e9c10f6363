//! The arguments of `gantry bundle`.

use std::path::PathBuf;

use clap::Args;

use super::key_value::key_value;
use super::limit_args::LimitArgs;
use super::outlet::outlet;
use crate::oci::Reference;

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub reference: Reference,
    /// Directory of the bundle: a new one, or an empty one
    pub directory: PathBuf,
    /// Unpack the layers into rootfs; without it, the file `layers` lists them, top first, as overlay's lowerdir takes them
    #[arg(long)]
    pub unpack: bool,
    /// User inside; runc wants 0
    #[arg(long, value_name = "1000|0", default_value = "1000", value_parser = ["1000", "0"])]
    pub id: String,
    /// Directory shown read-only as /input
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
    /// Directory that is /output; without it, that is memory and gone with the container
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Environment variable; repeatable
    #[arg(long = "env", short, value_name = "NAME=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Let the function's processes reach one another by TCP
    #[arg(long)]
    pub loopback: bool,
    /// Program to run instead of the image's entry point and command; arguments follow it
    #[arg(long, value_name = "PROGRAM", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub entrypoint: Option<String>,
    /// Write a JSON report
    #[arg(long, value_name = "FILE", value_parser = outlet())]
    pub report: Option<PathBuf>,
    /// Arguments for the image's command
    #[arg(last = true, value_name = "ARG")]
    pub args: Vec<String>,
}
