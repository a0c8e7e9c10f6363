//! What is fetched of a repository: manifests, blobs, tags (distribution specification, "Pull" and "Content Discovery").
//!
//! A manifest is its raw bytes, and their digest is what they are called by. A blob is a stream of exactly as many bytes as
//! were asked for; whoever reads it verifies it.

use std::io::{self, Read};

use super::answered_document::{content_type, is_document, page, Document};
use super::client::{Access, Asked, Repository};
use super::error::Problem;
use super::said::{failure_of, plain, shown};
use super::RegistryError;
use crate::net::{is_same_server, trouble_of, Answer, Call, Payload, Url, Verb};
use crate::oci::{media_type, Descriptor, Digest, MAX_DOCUMENT_BYTES};

/// The documents that gantry reads.
const ACCEPT: [&str; 4] = [
    media_type::MANIFEST,
    media_type::INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_INDEX,
];

/// What a name means in a registry.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its digest and size, as the registry says.
    Said(Descriptor),
    /// The document itself: the registry does not say its digest without it.
    Read(Descriptor, Vec<u8>),
}

/// Where a blob was found: the address that the registry led to, which parts of it are asked of as well. A registry may count
/// its own answers, and has given this one.
#[derive(Debug, Clone)]
pub(crate) struct BlobPlace {
    url: Url,
    /// Whether that is another server than the registry.
    pub is_elsewhere: bool,
}

/// A blob on its way: exactly the bytes that were asked for, or an error.
pub(crate) struct BlobBody {
    answer: Answer,
    /// Where it comes from.
    from: BlobPlace,
    /// Bytes that come before those that were asked for.
    before: u64,
    left: u64,
}

impl BlobBody {
    /// Whether the registry gives parts of blobs.
    pub(crate) fn has_parts(&self) -> bool {
        self.answer.status() == 206 || self.answer.header("accept-ranges") == Some("bytes")
    }

    /// Where it comes from.
    pub(crate) fn place(&self) -> &BlobPlace {
        &self.from
    }
}

impl Read for BlobBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        match std::mem::take(&mut self.before) {
            0 => {}
            before => self.answer.pass(before)?,
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.answer.read(buffer.get_mut(..most).unwrap_or_default())?;
        if count == 0 {
            let reason = format!("it ends {} bytes early", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// What a repository holds.
#[derive(Clone, Copy)]
pub(crate) struct Contents<'a> {
    repository: &'a Repository,
}

impl<'a> Contents<'a> {
    /// Those of `repository`.
    pub(crate) fn of(repository: &'a Repository) -> Self {
        Self { repository }
    }

    /// What `tag` means. Where that is possible the document itself is not asked for.
    pub(crate) fn resolve(self, tag: &str) -> Result<Found, RegistryError> {
        self.resolve_as(tag, Access::Pull)
    }

    fn resolve_as(self, tag: &str, access: Access<'_>) -> Result<Found, RegistryError> {
        let asked = Asked {
            access,
            ..self.asked("resolve", &format!("manifests/{tag}"))
        };
        let head = self.repository.exchange(&asked, &mut |url| call(Verb::Head, url));
        match head {
            Ok(answer) => {
                let digest = answer
                    .header("docker-content-digest")
                    .and_then(|text| text.parse().ok());
                let size = answer.size().filter(|size| *size > 0);
                let name = content_type(&answer).filter(|name| is_document(name));
                if let (Some(digest), Some(size), Some(name)) = (digest, size, name) {
                    return Ok(Found::Said(Descriptor::new(&name, digest, size)));
                }
            }
            // Some registries have no HEAD.
            Err(error) if matches!(error.status(), Some(400 | 405 | 501)) => {}
            Err(error) => return Err(error),
        }
        let (name, raw) = self.document(&asked)?;
        Ok(Found::Read(
            Descriptor::new(&name, Digest::of(&raw), raw.len() as u64),
            raw,
        ))
    }

    /// The manifest or index of a digest: its media type and its raw bytes, which have that digest.
    pub(crate) fn manifest(self, digest: &Digest) -> Result<(String, Vec<u8>), RegistryError> {
        let asked = self.asked("fetch manifest", &format!("manifests/{digest}"));
        let document = self.body(&asked)?;
        let got = Digest::of(&document.raw);
        if got != *digest {
            if let Some(found) = document.stranger() {
                return Err(self.stranger(&asked, "a manifest", found));
            }
            let reason = format!("its bytes have the digest {got}");
            return Err(RegistryError::answer(asked.doing, &plain(&asked.url), reason));
        }
        Ok((document.media_type(), document.raw))
    }

    /// The document that `tag` means now, if it means anything.
    pub(crate) fn find_document(self, tag: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        let asked = self.asked("fetch manifest", &format!("manifests/{tag}"));
        match self.document(&asked) {
            Ok((_, raw)) => Ok(Some(raw)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a tag means: nothing but the registry says which bytes those are.
    fn document(self, asked: &Asked<'_>) -> Result<(String, Vec<u8>), RegistryError> {
        let document = self.body(asked)?;
        match document.stranger().or_else(|| document.stranger_to_itself()) {
            Some(found) => Err(self.stranger(asked, "a manifest", found)),
            None => Ok((document.media_type(), document.raw)),
        }
    }

    fn body(self, asked: &Asked<'_>) -> Result<Document, RegistryError> {
        let mut answer = self.repository.exchange(asked, &mut |url| call(Verb::Get, url))?;
        let raw = bounded(asked, &mut answer, MAX_DOCUMENT_BYTES)?;
        Ok(Document::of(&answer, raw))
    }

    fn stranger(self, asked: &Asked<'_>, wanted: &'static str, found: String) -> RegistryError {
        let problem = Problem::NotARegistry { wanted, found };
        self.repository
            .told(RegistryError::new(asked.doing, &plain(&asked.url), problem))
    }

    /// A blob from its byte `from` on.
    pub(crate) fn blob(self, blob: &Descriptor, from: u64) -> Result<BlobBody, RegistryError> {
        let asked = self.asked("fetch blob", &format!("blobs/{}", blob.digest));
        let wrong = |reason: String| {
            let error = RegistryError::answer(asked.doing, &plain(&asked.url), reason);
            Err(self.repository.redacted(error))
        };
        let answer = self.repository.follow(&asked, &mut |url| {
            let mut call = call(Verb::Get, url);
            call.headers.clear();
            if from > 0 {
                call.headers.push(("range", format!("bytes={from}-")));
            }
            call
        });
        let (mut answer, place) = match answer {
            // What we have of it is as long as all that is there.
            Err(error) if error.status() == Some(416) => {
                return wrong(format!("it ends before byte {from}, and is {} bytes long", blob.size));
            }
            answer => answer?,
        };
        let is_elsewhere = !is_same_server(&asked.url, &place);
        let place = BlobPlace {
            url: place,
            is_elsewhere,
        };
        if answer.status() == 206 {
            let range = shown(answer.header("content-range").unwrap_or_default());
            let Some(end) = end_of(&range, from, blob.size) else {
                return wrong(format!("it sends {range:?}, asked for byte {from} of {} on", blob.size));
            };
            let left = end - from + 1;
            if answer.size().is_some_and(|size| size != left) {
                return wrong(format!(
                    "it sends {range:?} and says that this is another number of bytes"
                ));
            }
            return Ok(BlobBody {
                answer,
                from: place,
                before: 0,
                left,
            });
        }
        if let Some(found) = page(&mut answer, blob.size) {
            return Err(self.stranger(&asked, "a blob", found));
        }
        if let Some(size) = answer.size().filter(|size| *size != blob.size) {
            return wrong(format!(
                "it is {size} bytes long, and its descriptor says {}",
                blob.size
            ));
        }
        // It sends all of it: what we have is passed over when it is read.
        Ok(BlobBody {
            answer,
            from: place,
            before: from.min(blob.size),
            left: blob.size.saturating_sub(from),
        })
    }

    /// The bytes of a blob from `from` to `end`, both of which belong to it, of where all of it was found.
    pub(crate) fn part(
        self,
        place: &BlobPlace,
        blob: &Descriptor,
        from: u64,
        end: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let asked = Asked {
            doing: "fetch part of blob",
            url: place.url.clone(),
            access: Access::Pull,
        };
        let mut answer = self.repository.exchange(&asked, &mut |url| Call {
            headers: vec![("range", format!("bytes={from}-{end}"))],
            ..call(Verb::Get, url)
        })?;
        let range = shown(answer.header("content-range").unwrap_or_default());
        let length = end - from + 1;
        let is_it = answer.status() == 206 && end_of(&range, from, blob.size) == Some(end);
        if !is_it || answer.size().is_some_and(|size| size != length) {
            let reason = format!("it sends {range:?}, asked for bytes {from} to {end} of {}", blob.size);
            return Err(RegistryError::answer(asked.doing, &plain(&asked.url), reason));
        }
        let bytes = bounded(&asked, &mut answer, length)?;
        match bytes.len() as u64 {
            got if got < length => {
                let reason = format!("it ends {} bytes early", length - got);
                Err(broke(
                    asked.doing,
                    &asked.url,
                    &io::Error::new(io::ErrorKind::UnexpectedEof, reason),
                ))
            }
            _ => Ok(bytes),
        }
    }

    /// Has the registry show that it has a blob.
    ///
    /// # Errors
    ///
    /// Also when it has none: [`RegistryError::is_not_found`].
    pub(crate) fn prove_blob(self, blob: &Descriptor, access: Access<'_>) -> Result<(), RegistryError> {
        let asked = Asked {
            access,
            ..self.asked("look for blob", &format!("blobs/{}", blob.digest))
        };
        let answer = self.repository.exchange(&asked, &mut |url| Call {
            headers: Vec::new(),
            ..call(Verb::Head, url)
        })?;
        let reason = match answer.size() {
            Some(size) if size == blob.size => return Ok(()),
            Some(size) => format!("it is {size} bytes long, and its descriptor says {}", blob.size),
            // Not every answer to HEAD has a length; but some word about this very blob it has to have.
            None if answer.header("docker-content-digest") == Some(&blob.digest.to_string()) => return Ok(()),
            None => "it says neither how long it is nor what it is called".to_owned(),
        };
        Err(RegistryError::answer(asked.doing, &plain(&asked.url), reason))
    }

    /// Whether a blob is there, as the registry says to who may push.
    pub(crate) fn has_blob(self, blob: &Descriptor) -> Result<bool, RegistryError> {
        match self.prove_blob(blob, Access::Push) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What `tag` means now, if it means anything.
    pub(crate) fn find(self, tag: &str) -> Result<Option<Descriptor>, RegistryError> {
        self.find_as(tag, Access::Pull)
    }

    /// The digest that `tag` means now, if it means anything, as the registry says to who may push.
    pub(crate) fn digest_of(self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let found = self.find_as(tag, Access::Push)?;
        Ok(found.map(|descriptor| descriptor.digest))
    }

    fn find_as(self, tag: &str, access: Access<'_>) -> Result<Option<Descriptor>, RegistryError> {
        match self.resolve_as(tag, access) {
            Ok(Found::Said(descriptor) | Found::Read(descriptor, _)) => Ok(Some(descriptor)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn asked(self, doing: &'static str, rest: &str) -> Asked<'static> {
        Asked {
            doing,
            url: self.repository.url(rest),
            access: Access::Pull,
        }
    }

    /// The error of a blob's body that broke off.
    pub(crate) fn broken_blob(self, digest: &Digest, error: &io::Error) -> RegistryError {
        broke("fetch blob", &self.repository.url(&format!("blobs/{digest}")), error)
    }

    /// The error of a blob whose bytes are not what they are called.
    pub(crate) fn wrong_blob(self, digest: &Digest, reason: String) -> RegistryError {
        let url = plain(&self.repository.url(&format!("blobs/{digest}")));
        RegistryError::answer("fetch blob", &url, reason)
    }
}

/// The body of an answer of at most `limit` bytes, all of it.
pub(super) fn bounded(asked: &Asked<'_>, answer: &mut Answer, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::new(asked.doing, &plain(&asked.url), Problem::TooLarge { limit });
    let broke = |error: &io::Error| broke(asked.doing, &asked.url, error);
    let said = answer.size();
    if said.is_some_and(|size| size > limit) {
        return Err(too_large());
    }
    let raw = answer.bytes(limit + 1).map_err(|error| broke(&error))?;
    let got = raw.len() as u64;
    match said {
        _ if got > limit => Err(too_large()),
        Some(size) if size != got => {
            let early = format!("it ends {} bytes early", size - got);
            Err(broke(&io::Error::new(io::ErrorKind::UnexpectedEof, early)))
        }
        _ => Ok(raw),
    }
}

fn broke(doing: &'static str, url: &Url, error: &io::Error) -> RegistryError {
    let failure = failure_of(trouble_of(error));
    RegistryError::broken(doing, &plain(url), failure, format!("the connection broke: {error}"))
}

fn call(verb: Verb, url: Url) -> Call {
    Call {
        verb,
        url,
        headers: vec![("accept", ACCEPT.join(", "))],
        payload: Payload::Empty,
    }
}

/// The last byte of `Content-Range: bytes FROM-END/SIZE` when it is of a part that begins at `from` of `size` bytes.
pub(super) fn end_of(range: &str, from: u64, size: u64) -> Option<u64> {
    let (part, total) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (begin, end) = part.split_once('-')?;
    let (begin, end) = (begin.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
    let fits = begin == from && end >= begin && end < size && (total == "*" || total.parse() == Ok(size));
    fits.then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_one_that_was_asked_for() {
        for (range, end) in [
            ("bytes 10-92/93", Some(92)),
            ("bytes 10-20/93", Some(20)),
            ("bytes 10-92/*", Some(92)),
            ("bytes 0-92/93", None),
            ("bytes 11-92/93", None),
            ("bytes 10-93/93", None),
            ("bytes 10-92/94", None),
            ("bytes 10-9/93", None),
            ("bytes */93", None),
            ("10-92/93", None),
            ("", None),
        ] {
            assert_eq!(end_of(range, 10, 93), end, "{range}");
        }
    }
}
