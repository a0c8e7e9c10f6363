//! Where credentials for registries are found: what the configuration names, else docker's and podman's files, whose
//! credential helpers are run.
//!
//! ```text
//! [[registry]] credentials      a variable, a file or a helper; nothing else is looked at then
//! $REGISTRY_AUTH_FILE           this file alone, when it is set
//! $DOCKER_CONFIG/config.json    else ~/.docker/config.json: what `gantry login` and `docker login` write
//! auth.json                     of podman: in $XDG_RUNTIME_DIR/containers, then in ~/.config/containers
//! ```
//!
//! A file that is there and cannot be read is an error, not the next file: whoever has credentials shall not be anonymous
//! without a word. A helper gets a clean environment, ten seconds, and the host on its standard input.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use crate::registry::{read_auth_file, with_login, AuthFile, FoundLogin, Login, LoginError, Said, SaidBy};
use crate::sys::program::{Program, ProgramError};
use crate::sys::replace::Replacement;

/// Files of credentials have some kilobytes.
const MAX_FILE: u64 = 1 << 20;
/// A helper may ask a keyring, which may ask a person.
const HELPER_TIME: Duration = Duration::from_secs(10);
/// What a helper may print.
const HELPER_OUTPUT: usize = 64 << 10;

/// What is written before it takes the place of docker's file, in its folder.
const WRITTEN: &str = ".gantry-login";
/// How long another process may write it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the configuration names credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user, and a variable of the environment that holds the password.
    Variable { user: String, variable: String },
    /// A user, and a file that holds the password and nothing else.
    PasswordFile { user: String, file: PathBuf },
    /// The program `docker-credential-NAME`.
    Helper { name: String },
    /// Nobody: the registry is read without credentials, whatever docker's files say.
    Anonymous,
}

/// Reads a variable of the environment.
type ReadVariable = fn(&str) -> Option<Vec<u8>>;

/// The places that do not depend on the registry.
#[derive(Clone, Default)]
pub struct LoginPlaces {
    /// Files of docker's and podman's, in the order in which they count.
    pub files: Vec<PathBuf>,
    /// Reads a variable of the environment.
    pub variable: Option<ReadVariable>,
    /// Where programs are looked for.
    pub path: Option<OsString>,
    /// What helpers get of the environment.
    pub helper_environment: Vec<(String, OsString)>,
}

impl std::fmt::Debug for LoginPlaces {
    /// The environment of helpers may name what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginPlaces")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl LoginPlaces {
    /// Who we are to the registry `host`, for one of its repositories, and who says so; `named` is what the configuration says of
    /// it.
    ///
    /// # Errors
    ///
    /// [`LoginError`] when there are credentials that cannot be had.
    pub(crate) fn find(&self, host: &str, repository: &str, named: Option<&Credential>) -> FoundLogin {
        let failed = |reason: String| LoginError {
            host: host.to_owned(),
            reason,
        };
        match named {
            Some(credential) => self.named(host, credential).map_err(failed),
            None => self.of_files(host, repository).map_err(failed),
        }
    }

    /// Keeps who we are to the registry `host` as docker does: in the first file, or with the helper that this file names.
    /// Returns where.
    ///
    /// # Errors
    ///
    /// The text says what could not be written; what was there stays.
    pub(super) fn keep(&self, host: &str, user: &str, password: &str) -> Result<String, String> {
        let path = self.files.first().ok_or("neither DOCKER_CONFIG nor HOME is set")?;
        let unreadable = |error: &dyn std::fmt::Display| format!("read {}: {error}", path.display());
        let read = || match read_bounded(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(b"{}".to_vec()),
            read => read.map_err(|error| unreadable(&error)),
        };
        let file = read_auth_file(&read()?).map_err(|reason| unreadable(&reason))?;
        if let Some(name) = file.helper_of(host) {
            self.tell_helper(name, host, user, password)?;
            return Ok(format!("docker-credential-{name}"));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let mut file = Replacement::create_alone(folder.join(WRITTEN), PATIENCE)?;
            // Before there is anything in it.
            file.file().set_permissions(Permissions::from_mode(0o600))?;
            // Read when nobody else writes: of two that log in at once neither loses the other's.
            let text = read().map_err(io::Error::other)?;
            let text = with_login(&text, host, user, password).map_err(io::Error::other)?;
            file.write_all(&text)?;
            // A link stays one: it leads where the owner keeps the file.
            file.place(&path.canonicalize().unwrap_or(path.clone()))
        };
        write().map_err(|error: io::Error| format!("write {}: {error}", path.display()))?;
        Ok(path.display().to_string())
    }

    fn tell_helper(&self, name: &str, host: &str, user: &str, password: &str) -> Result<(), String> {
        let said = serde_json::json!({"ServerURL": host, "Username": user, "Secret": password}).to_string();
        let output = self.run_helper(name, "store", said.as_bytes())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("docker-credential-{name} fails ({})", output.status)),
        }
    }

    fn named(&self, host: &str, credential: &Credential) -> Result<Option<(Login, SaidBy)>, String> {
        let login = |user: &str, password: Vec<u8>, place: String| {
            let password = String::from_utf8(password).map_err(|_| format!("{place} holds no UTF-8"))?;
            let password = password.strip_suffix('\n').unwrap_or(&password).to_owned();
            if password.is_empty() {
                return Err(format!("{place} is empty"));
            }
            let login = Login::Password {
                user: user.to_owned(),
                password,
            };
            Ok(Some((login, SaidBy::Configuration(place))))
        };
        match credential {
            Credential::Variable { user, variable } => {
                let value = self.variable.and_then(|read| read(variable));
                let value = value.ok_or_else(|| not_set(variable))?;
                login(user, value, format!("the variable {variable}"))
            }
            Credential::PasswordFile { user, file } => {
                let value = read_bounded(file).map_err(|error| format!("read {}: {error}", file.display()))?;
                login(user, value, format!("the file {}", file.display()))
            }
            Credential::Helper { name } => {
                let found = self.ask_helper(name, host)?;
                let program = format!("docker-credential-{name}");
                let found = found.ok_or_else(|| format!("{program} has none"))?;
                Ok(Some((found, SaidBy::Configuration(program))))
            }
            Credential::Anonymous => Ok(None),
        }
    }

    fn of_files(&self, host: &str, repository: &str) -> Result<Option<(Login, SaidBy)>, String> {
        for path in &self.files {
            let text = match read_bounded(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("read {}: {error}", path.display())),
            };
            let wrong = |reason: &str| format!("read {}: {reason}", path.display());
            let file: AuthFile = read_auth_file(&text).map_err(wrong)?;
            match file.find(host, repository).map_err(wrong)? {
                Some(Said::Login(login)) => return Ok(Some((login, SaidBy::File(path.display().to_string())))),
                Some(Said::Helper(name)) => {
                    if let Some(login) = self.ask_helper(&name, host)? {
                        let place = format!("docker-credential-{name}, which {} names", path.display());
                        return Ok(Some((login, SaidBy::File(place))));
                    }
                }
                None => {}
            }
        }
        Ok(None)
    }

    fn run_helper(&self, name: &str, verb: &str, input: &[u8]) -> Result<Output, String> {
        let is_name = |name: &str| {
            let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !name.is_empty() && name.len() <= 64 && name.bytes().all(is_fine)
        };
        if !is_name(name) {
            return Err(format!(
                "a credential helper is called {name:?}, which is no name of a program"
            ));
        }
        let program = format!("docker-credential-{name}");
        let run = Program::new(&program, HELPER_TIME)
            .arg(verb)
            .env("PATH", self.path.clone().unwrap_or_default())
            .envs(self.helper_environment.clone())
            .output_limit(HELPER_OUTPUT)
            .input(input)
            .run();
        run.map_err(|error| match error {
            ProgramError::Start { source, .. } => format!("run {program}: {source}"),
            error => error.to_string(),
        })
    }

    /// What the helper knows of `host`; none when it knows nothing.
    fn ask_helper(&self, name: &str, host: &str) -> Result<Option<Login>, String> {
        let output = self.run_helper(name, "get", host.as_bytes())?;
        let program = format!("docker-credential-{name}");
        if output.status.success() {
            let login = Login::of_helper(&output.stdout);
            return login
                .map(Some)
                .ok_or_else(|| format!("{program} prints no credentials"));
        }
        // How helpers say that they have none; it stands on either stream.
        let said = [output.stdout, output.stderr].concat();
        match String::from_utf8_lossy(&said).contains("credentials not found") {
            true => Ok(None),
            false => Err(format!("{program} fails ({})", output.status)),
        }
    }
}

/// The reason of a variable that is not there. A name that looks like no variable is not repeated: people write the password
/// itself there.
fn not_set(variable: &str) -> String {
    let is_usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    match variable.bytes().all(is_usual) {
        true => format!("the variable {variable} is not set"),
        false => {
            "the variable that `password_env` names is not set; its name is not shown, as it may be the password itself"
                .to_owned()
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn password(user: &str, password: &str) -> Option<Login> {
        let (user, password) = (user.to_owned(), password.to_owned());
        Some(Login::Password { user, password })
    }

    fn found(places: &LoginPlaces, host: &str) -> Option<Login> {
        places.find(host, "x", None).unwrap().map(|(login, _)| login)
    }

    fn variable(name: &str) -> Option<Vec<u8>> {
        (name == "KEY").then(|| b"s3\n".to_vec())
    }

    #[test]
    fn what_the_configuration_names_is_all_that_is_looked_at() {
        let scratch = tempfile::tempdir().unwrap();
        let (file, empty) = (scratch.path().join("password"), scratch.path().join("empty"));
        fs::write(&file, "p4\n").unwrap();
        fs::write(&empty, "\n").unwrap();
        let places = LoginPlaces {
            files: vec!["/nonexistent/never-read".into()],
            variable: Some(variable),
            ..LoginPlaces::default()
        };
        let user = || "me".to_owned();
        let of_variable = |name: &str| Credential::Variable {
            user: user(),
            variable: name.to_owned(),
        };
        let of_file = |file: &Path| Credential::PasswordFile {
            user: user(),
            file: file.to_owned(),
        };
        let find = |credential: &Credential| {
            let found = places.find("a.example", "x", Some(credential));
            found.map(|found| found.map(|(login, _)| login))
        };
        assert_eq!(find(&of_variable("KEY")).unwrap(), password("me", "s3"));
        assert_eq!(find(&of_file(&file)).unwrap(), password("me", "p4"));
        assert_eq!(find(&Credential::Anonymous).unwrap(), None);
        let said_by = |credential: &Credential| places.find("a.example", "x", Some(credential)).unwrap().unwrap().1;
        assert_eq!(
            said_by(&of_variable("KEY")),
            SaidBy::Configuration("the variable KEY".to_owned())
        );
        for (credential, says) in [
            (of_variable("NONE"), "variable NONE is not set"),
            (of_variable("hunter2"), "may be the password itself"),
            (of_file(&empty), "is empty"),
            (of_file(Path::new("/nonexistent")), "/nonexistent"),
            (
                Credential::Helper {
                    name: "../x".to_owned(),
                },
                "no name of a program",
            ),
            (
                Credential::Helper {
                    name: "nonexistent-x".to_owned(),
                },
                "docker-credential-nonexistent-x",
            ),
        ] {
            let error = find(&credential).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("a.example"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_login_is_kept_beside_what_is_there_for_its_owner_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("new/config.json");
        let places = LoginPlaces {
            files: vec![file.clone()],
            ..LoginPlaces::default()
        };
        assert_eq!(places.keep("a.example", "u", "p:1"), Ok(file.display().to_string()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(found(&places, "a.example"), password("u", "p:1"));
        fs::write(
            &file,
            r#"{"psFormat":"x","auths":{"a.example":{"auth":"dTpw"},"b.example":{"auth":"dTpw"}}}"#,
        )
        .unwrap();
        places.keep("a.example", "me", "2").unwrap();
        assert_eq!(found(&places, "a.example"), password("me", "2"));
        assert_eq!(found(&places, "b.example"), password("u", "p"));
        assert!(fs::read_to_string(&file).unwrap().contains("psFormat"));
        fs::write(&file, "[]").unwrap();
        assert!(places.keep("a.example", "me", "2").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "[]");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn files_count_in_their_order_and_helpers_are_run() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let helper = |name: &str, script: &str| {
            let path = write(&format!("docker-credential-{name}"), &format!("#!/bin/sh\n{script}\n"));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        helper(
            "yes",
            r#"read host; env >"${0%/*}/env"; printf '{"Username":"%s","Secret":"of %s"}' "$1" "$host""#,
        );
        helper("none", "echo 'credentials not found in native keychain'; exit 1");
        helper("bad", "echo hunter2; exit 3");
        helper("odd", "echo hunter2");
        let first = write(
            "first",
            r#"{"credHelpers":{"h.example":"yes","n.example":"none","b.example":"bad","o.example":"odd"}}"#,
        );
        let second = write("second", r#"{"auths":{"n.example":{"username":"u","password":"p"}}}"#);
        let broken = write("broken", "{");
        let path = OsString::from(format!("{}:/usr/bin:/bin", scratch.path().display()));
        let places = |files: &[&PathBuf]| LoginPlaces {
            files: files.iter().map(|file| (*file).clone()).collect(),
            path: Some(path.clone()),
            helper_environment: vec![("GIVEN".to_owned(), "1".into())],
            ..LoginPlaces::default()
        };
        let missing = scratch.path().join("missing");
        let all = places(&[&missing, &first, &second]);
        assert_eq!(found(&all, "h.example"), password("get", "of h.example"));
        let environment = fs::read_to_string(scratch.path().join("env")).unwrap();
        assert!(
            environment.contains("GIVEN=1") && !environment.contains("CARGO"),
            "{environment}"
        );
        assert_eq!(found(&all, "n.example"), password("u", "p"));
        assert_eq!(found(&all, "other.example"), None);
        for host in ["b.example", "o.example"] {
            let error = all.find(host, "x", None).unwrap_err().to_string();
            assert!(
                error.contains("docker-credential-") && !error.contains("hunter2"),
                "{error}"
            );
        }
        let error = places(&[&broken, &second])
            .find("n.example", "x", None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("broken"), "{error}");
    }
}
