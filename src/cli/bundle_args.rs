//! The arguments of `gantry bundle`.

use std::path::PathBuf;

use clap::Args;

use super::key_value::key_value;
use super::outlet::outlet;
use crate::oci::Reference;
use crate::policy::{Cpus, GivenLimits, Pids, Room};

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
    /// Memory of all processes together [default: 512M]
    #[arg(long, short = 'm', value_name = "SIZE")]
    pub memory: Option<Room>,
    /// CPU share in cores [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<Cpus>,
    /// Processes and threads at once [default: 64]
    #[arg(long, value_name = "N")]
    pub pids: Option<Pids>,
    /// Size of /tmp [default: 64M]
    #[arg(long, value_name = "SIZE")]
    pub tmp_size: Option<Room>,
    /// Size of /dev/shm, the shared memory [default: 64M]
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<Room>,
    /// Size of /output [default: 64M]
    #[arg(long, value_name = "SIZE", conflicts_with = "output")]
    pub output_size: Option<Room>,
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

impl BundleArgs {
    /// The limits that another runtime is told: those of time and of what is printed are gantry's own.
    pub(super) fn limits(&self) -> GivenLimits {
        GivenLimits {
            memory: self.memory,
            cpus: self.cpus,
            pids: self.pids,
            tmp_size: self.tmp_size,
            shm_size: self.shm_size,
            output_size: self.output_size,
            ..GivenLimits::default()
        }
    }
}
