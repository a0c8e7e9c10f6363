//! Where a document or a stream of lines goes that an option names: a file, `-` for standard output, `fd:N` for a descriptor
//! that the caller left open.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use rustix::fs::{fcntl_getfl, OFlags};
use rustix::io::Errno;

use crate::sys::process::duplicate;
use crate::sys::streams;

/// The number of standard output.
const STANDARD_OUTPUT: u32 = 1;

/// What an option names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlet<'a> {
    /// A descriptor.
    Descriptor(u32),
    /// A path.
    Path(&'a Path),
}

impl<'a> Outlet<'a> {
    /// Understands `text`; a file that is called like a descriptor is `./fd:3`.
    pub(super) fn of(text: &'a Path) -> Self {
        match text.to_str() {
            Some("-") => Self::Descriptor(STANDARD_OUTPUT),
            Some(word) => match word.strip_prefix("fd:").and_then(|number| number.parse().ok()) {
                Some(number) => Self::Descriptor(number),
                None => Self::Path(text),
            },
            None => Self::Path(text),
        }
    }

    /// Whether it is our standard output.
    pub(super) fn is_standard_output(self) -> bool {
        self == Self::Descriptor(STANDARD_OUTPUT)
    }
}

/// Takes a path, or what stands for a descriptor.
pub(super) fn outlet() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| checked(&path).map(|()| path))
}

/// Takes `path` as an option's value: what begins as a descriptor and is none would be a file that nobody looks for.
pub(super) fn checked(path: &Path) -> Result<(), String> {
    let number = path.to_str().and_then(|text| text.strip_prefix("fd:"));
    match number.map(str::parse::<u32>) {
        Some(Err(_)) => Err(format!(
            "a descriptor is fd:NUMBER, such as fd:3; a file of that name is ./{}",
            path.display()
        )),
        _ => Ok(()),
    }
}

/// What the caller left open at `number`, for writing.
pub(super) fn open_descriptor(number: u32) -> io::Result<File> {
    if number == STANDARD_OUTPUT && streams::is_standard_output_closed() {
        // What has its number now is not what our caller gave us: nothing.
        return Err(Errno::BADF.into());
    }
    let file = File::from(duplicate(number)?);
    if fcntl_getfl(&file)? & OFlags::RWMODE == OFlags::RDONLY {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is open for reading only",
        ));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_its_number_and_everything_else_a_path() {
        for (text, number) in [("-", Some(1)), ("fd:1", Some(1)), ("fd:9", Some(9)), ("./fd:9", None)] {
            let path = Path::new(text);
            let outlet = number.map_or(Outlet::Path(path), Outlet::Descriptor);
            assert_eq!(Outlet::of(path), outlet, "{text}");
            assert_eq!(Outlet::of(path).is_standard_output(), number == Some(1));
        }
        for (text, is_fine) in [
            ("fd:", false),
            ("fd:x", false),
            ("fd:-1", false),
            ("./fd:x", true),
            ("-", true),
            ("fd:9", true),
        ] {
            assert_eq!(checked(Path::new(text)).is_ok(), is_fine, "{text}");
        }
        for text in ["", "fd:", "fd:x", "fd:-1", "--", "1"] {
            assert_eq!(Outlet::of(Path::new(text)), Outlet::Path(Path::new(text)), "{text}");
        }
    }

    #[test]
    fn a_descriptor_is_open_for_writing_or_refused() {
        let error = open_descriptor(987_654).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(9));
        let read = File::open("/dev/null").unwrap();
        let number = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&read)).unwrap();
        // Ours, as all that does not outlive an exec.
        let error = open_descriptor(number).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(9));
        rustix::io::fcntl_setfd(&read, rustix::io::FdFlags::empty()).unwrap();
        let error = open_descriptor(number).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
