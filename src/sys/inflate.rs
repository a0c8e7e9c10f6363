//! Inflates a whole deflate stream and says where it ended.
//!
//! The safe wrapper of libdeflate hides how much input was used, and libdeflate ignores what follows the last block. A
//! stream that is copied into a gzip member must fill its bytes exactly, or what follows is read as the member's
//! trailer and as further members.
#![allow(unsafe_code, reason = "the call that reports the used input has no safe wrapper")]

use std::ptr::NonNull;

use libdeflate_sys::{
    libdeflate_alloc_decompressor, libdeflate_decompressor, libdeflate_deflate_decompress_ex,
    libdeflate_free_decompressor, libdeflate_result_LIBDEFLATE_SUCCESS,
};

/// The tables of a decompressor, reusable from stream to stream.
pub(crate) struct Inflater(NonNull<libdeflate_decompressor>);

/// How far a stream went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inflated {
    /// Bytes of the input up to the end of the last block.
    pub used: usize,
    /// Bytes written.
    pub written: usize,
}

impl Inflater {
    /// None when there is no memory.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: the call has no precondition; null means no memory.
        NonNull::new(unsafe { libdeflate_alloc_decompressor() }).map(Self)
    }

    /// Inflates the raw deflate stream at the start of `deflated` into `contents`; none when it is damaged, cut off or
    /// does not fit.
    pub(crate) fn inflate(&mut self, deflated: &[u8], contents: &mut [u8]) -> Option<Inflated> {
        let (mut used, mut written) = (0, 0);
        // SAFETY: the decompressor is live (made in `new`, freed in `drop`) and ours alone (`&mut self`); both buffers
        // are valid for the lengths passed with them, and the results are valid for writes.
        let result = unsafe {
            libdeflate_deflate_decompress_ex(
                self.0.as_ptr(),
                deflated.as_ptr().cast(),
                deflated.len(),
                contents.as_mut_ptr().cast(),
                contents.len(),
                &raw mut used,
                &raw mut written,
            )
        };
        (result == libdeflate_result_LIBDEFLATE_SUCCESS).then_some(Inflated { used, written })
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `libdeflate_alloc_decompressor` and is freed once, here.
        unsafe { libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_the_stream_ends() {
        // One stored block, and the same as an empty block with fixed codes after it.
        let stored = b"\x01\x03\x00\xfc\xffabc";
        let mut inflater = Inflater::new().unwrap();
        for tail in [&b""[..], b"\0", b"more than a word of input"] {
            let bytes = [&stored[..], tail].concat();
            let mut contents = [0; 3];
            assert_eq!(
                inflater.inflate(&bytes, &mut contents),
                Some(Inflated { used: 8, written: 3 })
            );
            assert_eq!(&contents, b"abc");
        }
        let fixed = b"\x4b\x4c\x4a\x06\x00";
        for (bytes, used) in [
            (&fixed[..], 5),
            (b"\x4b\x4c\x4a\x06\x00\x00\x00\x00\x00\x00\x00\x00", 5),
        ] {
            let mut contents = [0; 9];
            assert_eq!(
                inflater.inflate(bytes, &mut contents),
                Some(Inflated { used, written: 3 })
            );
        }
        assert_eq!(inflater.inflate(&stored[..7], &mut [0; 3]), None);
        assert_eq!(inflater.inflate(stored, &mut [0; 2]), None);
    }
}
