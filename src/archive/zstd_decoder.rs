//! A decoder of zstd whose memory is used again: most of it is the window, which the kernel gives page by page and zeroed.
//!
//! What an earlier stream left in it is unreachable for the next one, as a frame refers to nothing before its own beginning.

use std::io::{self, BufReader, Read};
use std::sync::{Mutex, PoisonError};

use zstd::stream::read;
use zstd::zstd_safe::DCtx;

/// More memory than a decoder has whose window is 8 MiB, which every reader must understand (RFC 8878). One that has more is
/// not kept.
const MOST_KEPT: usize = 10 << 20;

/// Those that are not in use: as many as there were in use at once.
static IDLE: Mutex<Vec<DCtx<'static>>> = Mutex::new(Vec::new());

/// The memory of a decoder, which others use when this is dropped.
#[derive(Default)]
pub(super) struct ZstdDecoder(Option<DCtx<'static>>);

impl ZstdDecoder {
    /// What `packed` unpacks to. Its window may have 2 to the power of `window_log` bytes.
    pub(super) fn read<'d, R: Read + 'd>(&'d mut self, packed: R, window_log: u32) -> io::Result<impl Read + 'd> {
        let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = self.0.get_or_insert_with(|| idle().unwrap_or_default());
        let packed = BufReader::with_capacity(DCtx::in_size(), packed);
        let mut decoder = read::Decoder::with_context(packed, memory);
        decoder.window_log_max(window_log)?;
        Ok(decoder)
    }
}

impl Drop for ZstdDecoder {
    fn drop(&mut self) {
        if let Some(memory) = self.0.take().filter(|memory| memory.sizeof() <= MOST_KEPT) {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const USUAL: u32 = 23;

    fn packed(contents: &[u8], window_log: u32) -> Vec<u8> {
        let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
        out.window_log(window_log).unwrap();
        out.include_contentsize(false).unwrap();
        out.write_all(contents).unwrap();
        out.finish().unwrap()
    }

    fn unpacked(decoder: &mut ZstdDecoder, packed: &[u8], window_log: u32) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decoder.read(packed, window_log)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn a_stream_that_was_cut_or_refused_leaves_nothing_to_the_next_of_its_memory() {
        let (first, second) = (vec![1; 3_000_000], b"second".repeat(100_000));
        let mut decoder = ZstdDecoder::default();
        let cut = packed(&first, 20);
        let mut some = [0; 10];
        decoder
            .read(&cut[..cut.len() / 2], USUAL)
            .unwrap()
            .read_exact(&mut some)
            .unwrap();
        assert_eq!(unpacked(&mut decoder, &packed(&second, 20), USUAL).unwrap(), second);
        // A limit is that of one stream.
        let wide = packed(&first, 24);
        assert!(unpacked(&mut decoder, &wide, USUAL).is_err());
        assert_eq!(unpacked(&mut decoder, &wide, 24).unwrap(), first);
        assert!(unpacked(&mut decoder, &wide, USUAL).is_err());
        assert!(unpacked(&mut decoder, b"no zstd at all", USUAL).is_err());
        assert_eq!(unpacked(&mut decoder, &packed(&second, 20), USUAL).unwrap(), second);
    }

    #[test]
    fn memory_is_kept_up_to_the_usual_window() {
        let size = |window_log| {
            let mut decoder = ZstdDecoder(Some(DCtx::default()));
            unpacked(&mut decoder, &packed(&vec![1; 40 << 20], window_log), window_log).unwrap();
            decoder.0.take().unwrap().sizeof()
        };
        let (usual, wide) = (size(USUAL), size(USUAL + 1));
        assert!((1 << USUAL..=MOST_KEPT).contains(&usual), "{usual}");
        assert!(wide > MOST_KEPT, "{wide}");
    }
}
