//! Makes new inputs of old ones: bits, numbers, blocks and words changed; the checksums of tar headers mended, without
//! which hardly anything gets past them.

/// Longest input: readers meet each of their limits below it.
const MOST_BYTES: usize = 16 << 10;
/// Numbers at whose edges readers go wrong.
const NUMBERS: &[u64] = &[
    0,
    1,
    7,
    127,
    128,
    255,
    256,
    4095,
    32767,
    65535,
    65536,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// Words of the formats, which chance does not find.
const WORDS: &[(&str, &[&str])] = &[
    (
        "deb",
        &[
            "!<arch>\n",
            "debian-binary",
            "control.tar.xz",
            "data.tar.gz",
            "data.tar",
            "2.0\n",
            "`\n",
        ],
    ),
    ("elf", &["\u{7f}ELF", "\u{2}\u{1}\u{1}", "libc.so.6", "GLIBC_2.34"]),
    (
        "layout",
        &[
            "\"schemaVersion\":2",
            "\"mediaType\"",
            "\"config\"",
            "\"layers\"",
            "\"digest\"",
            "\"size\"",
            "\"data\"",
            "\"manifests\"",
            "\"annotations\"",
            "\"rootfs\"",
            "\"diff_ids\"",
            "\"architecture\":\"amd64\"",
            "\"os\":\"linux\"",
            "\"urls\"",
            "\"platform\"",
            "sha256:",
            "null",
            "1e999",
            "-1",
            "{",
            "}",
            "[",
            "]",
        ],
    ),
    (
        "reference",
        &[
            "oci:",
            "oci-archive:",
            "@sha256:",
            ":latest",
            "localhost:5000/",
            "..",
            "//",
            "[::1]",
            "\u{202e}",
        ],
    ),
    (
        "requirements",
        &[
            "--hash=sha256:",
            "-r included.txt",
            "-c included.txt",
            " ; ",
            "python_version",
            " in ",
            "extra == 'a'",
            "==",
            ">=",
            "~=",
            "!=",
            "===",
            "[a,b]",
            " and ",
            " or ",
            "(",
            ")",
            " @ ",
            "\\\n",
            "#",
            "\u{feff}",
            ".*",
        ],
    ),
    (
        "tar",
        &[
            "ustar\0",
            "././@LongLink",
            ".wh.",
            ".wh..wh..opq",
            "../",
            "/",
            " path=",
            " size=",
            " linkpath=",
            "dev/",
        ],
    ),
    ("wire", &["{\"", "\":", "null", "[", "]", "}", "\0\0\0"]),
    (
        "zip",
        &[
            "PK\u{1}\u{2}",
            "PK\u{3}\u{4}",
            "PK\u{5}\u{6}",
            "PK\u{6}\u{6}",
            "PK\u{6}\u{7}",
            "../",
            "/",
            "\0",
        ],
    ),
];

/// Makes inputs; one seed gives one sequence of them.
pub struct Mutator {
    state: u64,
    words: &'static [&'static str],
    is_tar: bool,
}

impl Mutator {
    /// For the target of that name, whose words it knows.
    pub fn new(seed: u64, target: &str) -> Self {
        let words = WORDS
            .iter()
            .find(|(name, _)| *name == target)
            .map_or(&[][..], |(_, words)| words);
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            words,
            is_tar: target == "tar",
        }
    }

    /// xorshift64*: short, and the same everywhere.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.random() >> 11) as usize % end.max(1)
    }

    fn chosen<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a [u8] {
        // Later inputs reached something new: half of the time one of the last.
        let from = if self.below(2) == 0 {
            corpus.len().saturating_sub(32)
        } else {
            0
        };
        let at = from + self.below(corpus.len() - from);
        corpus.get(at).map_or(&[], Vec::as_slice)
    }

    /// A new input out of `corpus`.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.chosen(corpus).to_vec();
        for _ in 0..1 << self.below(5) {
            self.change(&mut input, corpus);
        }
        input.truncate(MOST_BYTES);
        if self.is_tar && self.below(8) > 0 {
            mend_checksums(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let length = 1 << self.below(10);
        let end = (at + length).min(input.len());
        match self.below(11) {
            0 => {
                let bit = 1 << self.below(8);
                if let Some(place) = input.get_mut(at) {
                    *place ^= bit;
                }
            }
            1 => {
                let byte = self.random() as u8;
                set(input, at, &[byte]);
            }
            2 => {
                input.drain(at..end);
            }
            3 => input.truncate(at),
            4 => {
                let block = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, block);
            }
            5 | 6 => {
                let number = NUMBERS[self.below(NUMBERS.len())]
                    .wrapping_add(self.below(3) as u64)
                    .wrapping_sub(1);
                let width = 1 << self.below(4);
                let bytes = if self.below(2) == 0 {
                    number.to_le_bytes()
                } else {
                    number.swap_bytes().to_le_bytes()
                };
                let bytes = if self.below(2) == 0 {
                    &bytes[..width]
                } else {
                    &bytes[8 - width..]
                };
                set(input, at, bytes);
            }
            7 => {
                // A digit in text, as sizes of tar, ar and JSON are.
                let digits: Vec<usize> = (0..input.len()).filter(|at| input[*at].is_ascii_digit()).collect();
                if let Some(at) = digits.get(self.below(digits.len())) {
                    input[*at] = b'0' + self.below(10) as u8;
                }
            }
            8 | 9 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())].as_bytes();
                if self.below(2) == 0 {
                    input.splice(at..at, word.iter().copied());
                } else {
                    set(input, at, word);
                }
            }
            _ => {
                let other = self.chosen(corpus);
                let from = self.below(other.len() + 1);
                let to = (from + (1 << self.below(12))).min(other.len());
                if self.below(2) == 0 {
                    input.truncate(at);
                    input.extend(&other[from..to]);
                } else {
                    input.splice(at..at, other[from..to].iter().copied());
                }
            }
        }
    }
}

fn set(input: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in input.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// Writes the right checksum into every block that looks like a tar header.
fn mend_checksums(input: &mut [u8]) {
    for block in input
        .chunks_exact_mut(512)
        .filter(|block| block[257..].starts_with(b"ustar"))
    {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
