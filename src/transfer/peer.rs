//! What a place must be able to do for images to come from it and go to it.
//!
//! A layout and the store are both ends of a copy; a registry is one of the two at a time, an archive is a stream and only
//! ever one.
//! What a name means is each place's own question, so finding an image is no part of these traits: a copy begins with a
//! descriptor. All methods take `&self`: blobs of one image may be asked for and written by several threads.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::small::{read_document, unreadable};
use super::TransferError;
use crate::oci::{Artifact, Descriptor, Digest, Hashed, ImageConfig, Manifest};
use crate::progress::Progress;
use crate::store::{check_descriptor, copy, CopyError};

/// How far away a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On this machine: opening a blob costs nothing.
    Here,
    /// Behind a network: a blob is asked for once, and what came of it before is not asked for again.
    Away,
}

/// A place that images are copied from.
pub trait Source: Send + Sync {
    /// Opens a blob. Its bytes are not verified yet: whoever reads them does, through [`Incoming`].
    ///
    /// # Errors
    ///
    /// When the blob is not there or cannot be opened.
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError>;

    /// Opens a blob at its byte `from`.
    ///
    /// # Errors
    ///
    /// As [`Source::open`].
    fn open_at(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + '_>, TransferError> {
        let mut reader = self.open(blob)?;
        let passed = io::copy(&mut (&mut reader).take(from), &mut io::sink());
        passed.map_err(|source| unreadable("copy", &self.place(&blob.digest), source))?;
        Ok(reader)
    }

    /// Reads a document of at most 4 MiB. Its bytes are not verified yet.
    ///
    /// # Errors
    ///
    /// As [`Source::open`], and when it is longer than its descriptor may say.
    fn read(&self, document: &Descriptor) -> Result<Vec<u8>, TransferError> {
        read_document(&mut *self.open(document)?, &self.place(&document.digest))
    }

    /// Looks whether a blob is there and as long as it says, where that costs a look: a manifest alone shall not make room for
    /// what never comes.
    ///
    /// # Errors
    ///
    /// As [`Source::open`]; [`StoreError::Size`](crate::store::StoreError::Size) when it has another length.
    fn look_at(&self, _blob: &Descriptor) -> Result<(), TransferError> {
        Ok(())
    }

    /// Whether the size of a document is one that the place said of a name, and stands in no document: it is no promise.
    fn is_size_hearsay(&self, _document: &Descriptor) -> bool {
        false
    }

    /// The manifests that refer to an image by their `subject`, as the place says; of nothing is verified yet.
    ///
    /// # Errors
    ///
    /// When that cannot be known.
    fn referrers(&self, _image: &Digest) -> Result<Vec<Descriptor>, TransferError> {
        Ok(Vec::new())
    }

    /// What belongs to an image by the names that cosign gives.
    ///
    /// # Errors
    ///
    /// When that cannot be known.
    fn companions(&self, _image: &Digest) -> Result<Vec<Referrer>, TransferError> {
        Ok(Vec::new())
    }

    /// Who said what refers to an image, and what belongs to it, where that was not the place that was named.
    fn stand_in(&self) -> Option<StandIn> {
        None
    }

    /// What a blob is called in messages.
    fn place(&self, digest: &Digest) -> PathBuf;

    /// How far away it is.
    fn reach(&self) -> Reach {
        Reach::Here
    }

    /// How many blobs may be read at once.
    fn at_once(&self) -> usize {
        usize::MAX
    }

    /// Whether a blob is worth another try that failed by `error`; called once for each such failure.
    fn gives_again(&self, _blob: &Descriptor, _error: &TransferError) -> bool {
        false
    }

    /// Shows that the place has a blob which the destination has already. A manifest is anybody's to write: who names the
    /// layer of somebody else's image must not get it for that.
    ///
    /// # Errors
    ///
    /// When the blob is not there, or not what it is called.
    fn prove(&self, blob: &Descriptor) -> Result<(), TransferError> {
        let mut hashed = Hashed::new(io::sink());
        let mut reader = self.open(blob)?.take(blob.size.saturating_add(1));
        copy(&mut reader, &mut hashed).map_err(|error| {
            let (CopyError::Read(source) | CopyError::Write(source)) = error;
            unreadable("copy", &self.place(&blob.digest), source)
        })?;
        let hasher = hashed.hasher;
        Ok(check_descriptor(blob, hasher.clone().digest(), hasher.bytes())?)
    }
}

/// A registry that spoke for another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// The repository that was named.
    pub named: String,
    /// The one that was asked.
    pub asked: String,
}

/// A place that images are copied to.
pub trait Destination: Send + Sync {
    /// Makes ready for an image. Called once, before anything of it is written.
    ///
    /// # Errors
    ///
    /// When the place would refuse the image in the end: better now than after gigabytes.
    fn begin(&self, image: &Documents) -> Result<(), TransferError>;

    /// Whether a layer is there already.
    ///
    /// # Errors
    ///
    /// When that cannot be known.
    fn has(&self, layer: &Descriptor) -> Result<bool, TransferError>;

    /// Whether a layer is expected to be there: such ones come last, behind what has to be written.
    fn expects(&self, _layer: &Descriptor) -> bool {
        false
    }

    /// Whether layers counted as there that may not be, now that [`Self::finish`] failed with `error`: then everything is
    /// gone through once more. From then on the place takes nothing for granted.
    fn doubts(&self, _error: &TransferError) -> bool {
        false
    }

    /// How many layers may be written at once that come from so far.
    fn at_once(&self, from: Reach) -> usize {
        match from {
            Reach::Here => 1,
            Reach::Away => usize::MAX,
        }
    }

    /// Whether a layer can be written again after a try that failed.
    fn starts_over(&self) -> bool {
        true
    }

    /// Whether it keeps what came of a layer from away, and goes on there.
    fn resumes(&self) -> bool {
        false
    }

    /// Writes a layer. Nothing is given its name unless all of it came and is what its descriptor says.
    ///
    /// # Errors
    ///
    /// Either side's, each with its own place.
    fn put(&self, layer: &Descriptor, incoming: &mut Incoming<'_>) -> Result<(), TransferError>;

    /// Writes the configuration beside the layers, where that saves time; elsewhere [`Self::finish`] writes it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn put_config(&self, _image: &Documents) -> Result<(), TransferError> {
        Ok(())
    }

    /// The place as one that keeps what refers to an image, when it does.
    fn keeps_referrers(&self) -> Option<&dyn Keeps> {
        None
    }

    /// Writes the manifest, after the configuration where [`Self::put_config`] does not: once the manifest is there, everything it names is. Then the
    /// image is called `name` there, if that is given and the place keeps names.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    fn finish(&self, image: &Documents, name: Option<&str>) -> Result<(), TransferError>;
}

/// Something that belongs to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// The tag by which it is found, if that is how.
    pub tag: Option<String>,
}

/// The verified manifest of something that belongs to an image. Its blobs are there.
pub struct Written<'a> {
    /// Of the manifest.
    pub descriptor: &'a Descriptor,
    /// Its bytes.
    pub raw: &'a [u8],
    /// What they say.
    pub artifact: &'a Artifact,
    /// The tag by which it is found, if that is how.
    pub tag: Option<&'a str>,
    /// Whether it is found by an index that comes after it.
    pub is_part: bool,
}

/// What became of a manifest at a place that keeps what refers to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is there, and nothing is lost for it.
    There,
    /// Its tag meant this one, which is found by it no more.
    InPlaceOf(Digest),
    /// Its tag means this one and is not moved.
    NotFor(Digest),
}

/// A place that keeps what refers to an image.
pub trait Keeps: Send + Sync {
    /// Writes a manifest so that it is found from the image it belongs to.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn put_artifact(&self, written: &Written<'_>) -> Result<Kept, TransferError>;
}

/// A place that is both.
pub trait Peer: Source + Destination {}

impl<T: Source + Destination> Peer for T {}

/// The verified documents of an image that is being copied.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Of the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Its raw bytes.
    pub manifest_raw: Vec<u8>,
    /// The configuration.
    pub config: ImageConfig,
    /// Its raw bytes.
    pub config_raw: Vec<u8>,
}

impl Documents {
    /// The distinct layers in the order of their digests.
    pub fn layers(&self) -> Vec<&Descriptor> {
        let mut layers: Vec<_> = self.manifest.layers.iter().collect();
        layers.sort_by_key(|layer| layer.digest);
        layers.dedup_by_key(|layer| layer.digest);
        layers
    }
}

/// How much of an image has come.
pub struct Tally<'a> {
    progress: &'a dyn Progress,
    done: AtomicU64,
    total: u64,
}

impl<'a> Tally<'a> {
    /// Nothing of `total` bytes yet.
    pub(super) fn new(progress: &'a dyn Progress, total: u64) -> Self {
        Self {
            progress,
            done: AtomicU64::new(0),
            total,
        }
    }

    /// That many bytes more are there.
    pub(super) fn add(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.progress.bytes(done.min(self.total), self.total);
    }

    /// Of `blob`, of which `counted` bytes were counted, all up to `at` are there.
    fn reach(&self, blob: &Descriptor, counted: &mut u64, at: u64) {
        if at <= *counted {
            return;
        }
        self.add(at - *counted);
        *counted = at;
        let name = blob.digest.hex().chars().take(12).collect::<String>();
        self.progress
            .part(&format!("layer {name}"), at.min(blob.size), blob.size);
    }

    /// Who is told.
    pub(super) fn progress(&self) -> &'a dyn Progress {
        self.progress
    }
}

/// A blob on its way from a source: never more of it than one byte over what its descriptor says. It is opened when it is
/// first read.
pub struct Incoming<'a> {
    blob: Descriptor,
    from: &'a dyn Source,
    reader: Option<io::Take<Box<dyn Read + 'a>>>,
    tally: &'a Tally<'a>,
    /// Bytes that were counted.
    counted: u64,
}

impl<'a> Incoming<'a> {
    /// A blob of `from`.
    pub(super) fn new(blob: &Descriptor, from: &'a dyn Source, tally: &'a Tally<'a>) -> Self {
        Self {
            blob: blob.clone(),
            from,
            reader: None,
            tally,
            counted: 0,
        }
    }

    /// How far away it comes from.
    pub(super) fn reach(&self) -> Reach {
        self.from.reach()
    }

    /// Who is told of it.
    pub(super) fn progress(&self) -> &'a dyn Progress {
        self.tally.progress()
    }

    /// Begins anew, with the byte `at`. What is open and stands there goes on.
    pub(super) fn start_at(&mut self, at: u64) -> Result<(), TransferError> {
        let next = self.reader.take();
        if let Some(reader) = next.filter(|reader| self.position(reader) == at) {
            self.reader = Some(reader);
            return Ok(());
        }
        let reader = self.from.open_at(&self.blob, at)?;
        self.count(at);
        // One byte more than promised is enough to know that there are too many.
        self.reader = Some(reader.take(self.blob.size.saturating_add(1).saturating_sub(at)));
        Ok(())
    }

    /// The number of the byte that `reader` gives next.
    fn position(&self, reader: &io::Take<Box<dyn Read + 'a>>) -> u64 {
        self.blob.size.saturating_add(1).saturating_sub(reader.limit())
    }

    /// Bytes up to `at` are there.
    fn count(&mut self, at: u64) {
        self.tally.reach(&self.blob, &mut self.counted, at);
    }

    /// Has the source show that it has the blob, as somebody else brought it meanwhile.
    pub(super) fn prove(&mut self) -> Result<(), TransferError> {
        self.count(self.blob.size);
        self.from.prove(&self.blob)
    }

    fn opened(&mut self) -> Result<&mut io::Take<Box<dyn Read + 'a>>, TransferError> {
        if self.reader.is_none() {
            self.start_at(0)?;
        }
        let none = || (Box::new(io::empty()) as Box<dyn Read>).take(0);
        Ok(self.reader.get_or_insert_with(none))
    }

    /// Reads at most `most` bytes of what is next, which are given again by what is read then.
    pub(super) fn peek(&mut self, most: usize) -> Result<Vec<u8>, TransferError> {
        let mut start = Vec::new();
        let read = self.opened()?.take(most as u64).read_to_end(&mut start);
        read.map_err(|source| self.unreadable(source))?;
        if let Some(rest) = self.reader.take() {
            let left = rest.limit().saturating_add(start.len() as u64);
            let again: Box<dyn Read + 'a> = Box::new(io::Cursor::new(start.clone()).chain(rest.into_inner()));
            self.reader = Some(again.take(left));
        }
        Ok(start)
    }

    /// Reads what comes next; nothing at its end.
    pub(super) fn read_next(&mut self, buffer: &mut [u8]) -> Result<usize, TransferError> {
        loop {
            let reader = self.opened()?;
            match reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(error)),
                Ok(count) => {
                    let at = self.reader.as_ref().map_or(0, |reader| self.position(reader));
                    self.count(at);
                    return Ok(count);
                }
            }
        }
    }

    /// Copies all of it into `out`, which verifies it; `unwritable` says what it means that `out` failed.
    ///
    /// # Errors
    ///
    /// That of the source, with its place, or that of `out`.
    pub fn copy_into(
        &mut self,
        out: &mut dyn Write,
        unwritable: &dyn Fn(io::Error) -> TransferError,
    ) -> Result<(), TransferError> {
        self.copy_part_into(u64::MAX, out, unwritable)?;
        // What is read again is read from the beginning.
        self.reader = None;
        Ok(())
    }

    /// Copies the next `size` bytes of it into `out`; what comes after them is read by the next call.
    ///
    /// # Errors
    ///
    /// As [`Incoming::copy_into`].
    pub fn copy_part_into(
        &mut self,
        size: u64,
        out: &mut dyn Write,
        unwritable: &dyn Fn(io::Error) -> TransferError,
    ) -> Result<(), TransferError> {
        self.opened()?;
        let Some(mut reader) = self.reader.take() else {
            return Ok(());
        };
        let at = self.position(&reader);
        let mut counted = Counted {
            out,
            blob: &self.blob,
            tally: self.tally,
            at,
            counted: &mut self.counted,
        };
        match copy(&mut (&mut reader).take(size), &mut counted) {
            Ok(_) => self.reader = Some(reader),
            Err(CopyError::Read(source)) => return Err(self.unreadable(source)),
            Err(CopyError::Write(source)) => return Err(unwritable(source)),
        }
        Ok(())
    }

    /// Copies all of it into `out` and verifies it meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Incoming::copy_into`], and when size or digest are not those of the descriptor: then `out` must be dropped.
    pub fn verify_into(
        &mut self,
        out: &mut dyn Write,
        unwritable: &dyn Fn(io::Error) -> TransferError,
    ) -> Result<(), TransferError> {
        let mut hashed = Hashed::new(out);
        self.copy_into(&mut hashed, unwritable)?;
        let hasher = hashed.hasher;
        Ok(check_descriptor(&self.blob, hasher.clone().digest(), hasher.bytes())?)
    }

    fn unreadable(&self, source: io::Error) -> TransferError {
        unreadable("copy", &self.from.place(&self.blob.digest), source)
    }
}

/// Writes on and counts, each byte of a blob once however often it comes.
struct Counted<'a, 'b> {
    out: &'a mut dyn Write,
    blob: &'a Descriptor,
    tally: &'b Tally<'b>,
    at: u64,
    counted: &'a mut u64,
}

impl Write for Counted<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.at += count as u64;
        self.tally.reach(self.blob, self.counted, self.at);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl std::fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Incoming({} from {})",
            self.blob.digest,
            self.from.place(&self.blob.digest).display()
        )
    }
}
