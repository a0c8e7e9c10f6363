//! `gantry config`: shows, checks and writes the configuration file. No store is opened.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::cli::args::{ConfigCommand, Globals};
use crate::cli::error::CommandError;
use crate::cli::escape::escape;
use crate::cli::format_args::Format;
use crate::cli::output::{print_json, print_line};
use crate::config::{template, Config, ConfigError, Environment, Shown};

/// Carries out one of the commands of `gantry config`.
pub(crate) fn configuration(globals: &Globals, command: &ConfigCommand) -> Result<u8, CommandError> {
    let environment = Environment::read();
    let named = globals.config.as_deref();
    match command {
        ConfigCommand::Show { format } => {
            let shown = Shown::read(named, &environment)?;
            match format.wanted() {
                Format::Json => print_json(&shown),
                Format::Table => print_line(&escape(shown.text().trim_end())),
            }
        }
        ConfigCommand::Check { file: Some(file) } => {
            Config::check_file(file)?;
            print_line(&format!("{}: fine", escape(&file.display().to_string())))
        }
        ConfigCommand::Check { file: None } => {
            Config::load(named, &environment)?;
            let files = environment.configurations(named);
            if files.is_empty() {
                return print_line("no configuration file: every key has its default");
            }
            for file in files {
                print_line(&format!("{}: fine", escape(&file.display().to_string())))?;
            }
            Ok(0)
        }
        ConfigCommand::Init { file } => {
            let user = environment.user_config(named);
            let file = file.clone().or(user).ok_or(ConfigError::NoHome)?;
            if file == Path::new("-") {
                return print_line(template().trim_end());
            }
            write(&file).map_err(|source| ConfigError::Write {
                path: file.clone(),
                source,
            })?;
            print_line(&escape(&file.display().to_string()))
        }
    }
}

/// Writes the template to a place where nothing is yet.
fn write(file: &Path) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create_new(file)?.write_all(template().as_bytes())
}
