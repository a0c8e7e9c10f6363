//! What is pushed to a repository: blobs, by mount or by upload, and manifests (distribution specification, "Push").
//!
//! An upload is one streamed PUT. What broke off goes on where the registry says that it has got to, and where a registry
//! takes no large bodies, blobs go in chunks. A registry is never believed that it took a chunk as it was sent: what it has
//! is what it says in `Range`, and in the end the digest decides.

use std::io::Read;

use super::client::{Access, Asked, Repository};
use super::fetching::Contents;
use super::said::{plain, shown};
use super::RegistryError;
use crate::net::{Answer, Call, Payload, Url, Verb};
use crate::oci::{media_type, Descriptor, Digest};

/// An upload that was begun.
#[derive(Debug)]
pub(crate) struct Upload {
    location: Url,
    /// The fewest bytes of a chunk but the last.
    pub least_chunk: u64,
}

/// What came of asking for a blob of another repository.
#[derive(Debug)]
pub(crate) enum Mounted {
    /// It is there now.
    Done,
    /// It has to be uploaded.
    Not(Upload),
}

/// What is sent to a repository.
#[derive(Clone, Copy)]
pub(crate) struct Pushes<'a> {
    repository: &'a Repository,
}

impl<'a> Pushes<'a> {
    /// To `repository`.
    pub(crate) fn to(repository: &'a Repository) -> Self {
        Self { repository }
    }

    /// Takes a blob over from another repository of the registry, or begins its upload.
    pub(crate) fn mount(self, digest: &Digest, from: &str) -> Result<Mounted, RegistryError> {
        let mut asked = self.pushed("mount blob", self.repository.url("blobs/uploads/"));
        asked.access = Access::Mount { from };
        asked
            .url
            .query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let answer = self.repository.exchange(&asked, &mut |url| empty(Verb::Post, url))?;
        match answer.status() {
            201 => Ok(Mounted::Done),
            _ => self.upload(&asked, &answer).map(Mounted::Not),
        }
    }

    /// Begins the upload of a blob.
    pub(crate) fn begin_upload(self) -> Result<Upload, RegistryError> {
        let asked = self.pushed("begin an upload to", self.repository.url("blobs/uploads/"));
        let answer = self.repository.exchange(&asked, &mut |url| empty(Verb::Post, url))?;
        self.upload(&asked, &answer)
    }

    /// Uploads all of a blob by one request, of which `open` gives the bytes, and ends the upload.
    pub(crate) fn put_blob(
        self,
        upload: &Upload,
        digest: &Digest,
        size: u64,
        open: &mut dyn FnMut() -> Box<dyn Read + Send>,
    ) -> Result<(), RegistryError> {
        let asked = self.pushed("upload blob to", ended(&upload.location, digest));
        let answer = self.repository.exchange(&asked, &mut |url| Call {
            headers: vec![("content-type", "application/octet-stream".to_owned())],
            payload: Payload::Stream { reader: open(), size },
            ..empty(Verb::Put, url)
        })?;
        self.blob_taken(&asked, &answer, digest, size)
    }

    /// Uploads the bytes of a blob from `at` on that `open` gives, `size` of them; returns how many bytes the registry has of it then.
    pub(crate) fn put_chunk(
        self,
        upload: &mut Upload,
        at: u64,
        size: u64,
        open: &mut dyn FnMut() -> Box<dyn Read + Send>,
    ) -> Result<u64, RegistryError> {
        let asked = self.pushed("upload a part to", upload.location.clone());
        let answer = self.repository.exchange(&asked, &mut |url| Call {
            headers: vec![
                ("content-type", "application/octet-stream".to_owned()),
                ("content-range", format!("{at}-{}", (at + size).saturating_sub(1))),
            ],
            payload: Payload::Stream { reader: open(), size },
            ..empty(Verb::Patch, url)
        })?;
        upload.location = self.repository.location(&asked, answer.header("location"))?;
        self.offset(&asked, &answer)
    }

    /// How many bytes the registry has of an upload.
    pub(crate) fn upload_offset(self, upload: &mut Upload) -> Result<u64, RegistryError> {
        let asked = self.pushed("look at an upload to", upload.location.clone());
        let answer = self.repository.exchange(&asked, &mut |url| empty(Verb::Get, url))?;
        if answer.header("location").is_some() {
            upload.location = self.repository.location(&asked, answer.header("location"))?;
        }
        self.offset(&asked, &answer)
    }

    /// Ends an upload all of whose `size` bytes are there.
    pub(crate) fn end_upload(self, upload: &Upload, digest: &Digest, size: u64) -> Result<(), RegistryError> {
        let asked = self.pushed("end an upload to", ended(&upload.location, digest));
        let answer = self.repository.exchange(&asked, &mut |url| Call {
            payload: Payload::Bytes(Vec::new()),
            ..empty(Verb::Put, url)
        })?;
        self.blob_taken(&asked, &answer, digest, size)
    }

    /// Writes a manifest under a tag, or under its digest.
    pub(crate) fn put_manifest(self, reference: &str, media_type: &str, raw: &[u8]) -> Result<(), RegistryError> {
        self.put_document(reference, media_type, raw).map(drop)
    }

    fn put_document(self, reference: &str, media_type: &str, raw: &[u8]) -> Result<Answer, RegistryError> {
        let asked = self.pushed("write manifest", self.repository.url(&format!("manifests/{reference}")));
        let answer = self.repository.exchange(&asked, &mut |url| Call {
            headers: vec![("content-type", media_type.to_owned())],
            payload: Payload::Bytes(raw.to_vec()),
            ..empty(Verb::Put, url)
        })?;
        let digest = Digest::of(raw);
        self.taken(&asked, &answer, &digest)?;
        // 201 says that it was made. Another success may be that of whoever stands between.
        if answer.status() == 201 {
            return Ok(answer);
        }
        match Contents::of(self.repository).digest_of(reference)? {
            Some(there) if there == digest => Ok(answer),
            _ => Err(self.not_there(&asked, &answer)),
        }
    }

    /// Writes a manifest that refers to another one; returns whether the registry says that it lists it there.
    pub(crate) fn put_referrer(
        self,
        reference: &str,
        media_type: &str,
        raw: &[u8],
        subject: &Digest,
    ) -> Result<bool, RegistryError> {
        let answer = self.put_document(reference, media_type, raw)?;
        Ok(answer.header("oci-subject").map(str::trim) == Some(&subject.to_string()))
    }

    fn pushed(self, doing: &'static str, url: Url) -> Asked<'static> {
        Asked {
            doing,
            url,
            access: Access::Push,
        }
    }

    fn upload(self, asked: &Asked<'_>, answer: &Answer) -> Result<Upload, RegistryError> {
        let least = answer
            .header("oci-chunk-min-length")
            .and_then(|text| text.trim().parse().ok());
        Ok(Upload {
            location: self.repository.location(asked, answer.header("location"))?,
            least_chunk: least.unwrap_or_default(),
        })
    }

    /// `Range: 0-END`, with or without `bytes=` before it; no bytes when there is none.
    fn offset(self, asked: &Asked<'_>, answer: &Answer) -> Result<u64, RegistryError> {
        let Some(range) = answer.header("range") else {
            return Ok(0);
        };
        offset_of(range).ok_or_else(|| {
            let reason = format!("it says that it has the bytes {:?}", shown(range));
            self.repository
                .redacted(RegistryError::answer(asked.doing, &plain(&asked.url), reason))
        })
    }

    /// Whether the blob is there that the registry took: 201 says so, and any other success is that of somebody who may not
    /// even be the registry.
    fn blob_taken(self, asked: &Asked<'_>, answer: &Answer, digest: &Digest, size: u64) -> Result<(), RegistryError> {
        self.taken(asked, answer, digest)?;
        let blob = Descriptor::new(media_type::LAYER_TAR, *digest, size);
        if answer.status() == 201 || Contents::of(self.repository).has_blob(&blob)? {
            return Ok(());
        }
        Err(self.not_there(asked, answer))
    }

    fn not_there(self, asked: &Asked<'_>, answer: &Answer) -> RegistryError {
        let reason = format!("the answer is {}, and what was sent is not there", answer.status());
        RegistryError::answer(asked.doing, &plain(&asked.url), reason)
    }

    /// Whether what the registry took is what was sent, as far as it says.
    fn taken(self, asked: &Asked<'_>, answer: &Answer, digest: &Digest) -> Result<(), RegistryError> {
        let said = answer.header("docker-content-digest");
        match said.map(str::parse::<Digest>) {
            Some(Ok(got)) if got != *digest => {
                let reason = format!("it took {digest} and calls it {got}");
                Err(RegistryError::answer(asked.doing, &plain(&asked.url), reason))
            }
            _ => Ok(()),
        }
    }
}

/// The address that ends an upload: the query that is there is the registry's own and stays.
fn ended(location: &Url, digest: &Digest) -> Url {
    let mut url = location.clone();
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

pub(super) fn offset_of(range: &str) -> Option<u64> {
    let range = range.trim();
    let (begin, end) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    // Of an upload without a byte some say 0-0 and some 0--1; of one byte all say 0-0. One byte is sent again then.
    let end = if end == "-1" { 0 } else { end.parse::<u64>().ok()? };
    (begin == "0").then_some(if end == 0 { 0 } else { end.saturating_add(1) })
}

fn empty(verb: Verb, url: Url) -> Call {
    Call {
        verb,
        url,
        headers: Vec::new(),
        payload: Payload::Empty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_has_of_an_upload_is_its_range() {
        for (range, bytes) in [
            ("0-0", Some(0)),
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("0--1", Some(0)),
            ("1-99", None),
            ("x", None),
        ] {
            assert_eq!(offset_of(range), bytes, "{range}");
        }
    }

    #[test]
    fn the_query_of_a_registry_stays_when_an_upload_ends() {
        let location = Url::parse("https://a.example/v2/x/blobs/uploads/1?_state=a%2Fb%3D&x").unwrap();
        let ended = ended(&location, &Digest::of(b""));
        let query = ended.query().unwrap();
        assert!(query.starts_with("_state=a%2Fb%3D&x&digest=sha256%3Ae3b0"), "{query}");
    }
}
