//! Layers whose packing is damaged, cut off, or more than it seems.

use std::io::Write;
use std::ops::Range;

use super::cases::Case;
use super::draft::{archive_of, entry, honest, layer, pack, pax, Draft, Says, GZIP, TAR, ZSTD};

const FILE: u8 = b'0';

fn honest_tar() -> Vec<u8> {
    archive_of(&[
        entry(b"app/", b'5', b"", b""),
        entry(b"app/x", FILE, &b"some contents\n".repeat(300), b""),
    ])
}

fn gzip() -> Vec<u8> {
    pack("gzip", &honest_tar())
}

fn zstd() -> Vec<u8> {
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packed.include_checksum(true).unwrap();
    packed.write_all(&honest_tar()).unwrap();
    packed.finish().unwrap()
}

fn changed(mut bytes: Vec<u8>, from_the_end: usize) -> Vec<u8> {
    let at = bytes.len() - from_the_end;
    bytes[at] ^= 0x55;
    bytes
}

fn cut(mut bytes: Vec<u8>, keep: usize) -> Vec<u8> {
    bytes.truncate(keep);
    bytes
}

fn damaged(what: &'static str, media_type: &str, bytes: Vec<u8>) -> Case {
    (what, "damaged", Says::Layer, layer(media_type, bytes))
}

fn of_gzip() -> Vec<Case> {
    let whole = gzip();
    let mut flags = gzip();
    flags[3] = 0xe0;
    let mut method = gzip();
    method[2] = 7;
    let half = whole.len() / 2;
    // As gantry writes them, so that the end of each is guessed at: the second one is not what it says.
    let tar = honest_tar();
    let member = |bytes: &[u8]| {
        let mut member = pack("gzip", bytes);
        member[..10].copy_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        member
    };
    let (one, other) = (member(&tar[..1000]), member(&tar[1000..]));
    vec![
        damaged("a gzip that is cut", GZIP, cut(whole.clone(), half)),
        damaged("a gzip without its checksum", GZIP, cut(whole.clone(), whole.len() - 8)),
        damaged("a gzip with another checksum", GZIP, changed(gzip(), 8)),
        damaged("a gzip with another size", GZIP, changed(gzip(), 4)),
        damaged("a gzip with flags that nobody knows", GZIP, flags),
        damaged("a gzip packed by another method", GZIP, method),
        damaged("a gzip with something behind it", GZIP, [&whole[..], b"more"].concat()),
        damaged("a gzip with zeros behind it", GZIP, [&whole[..], &[0; 512]].concat()),
        damaged("a gzip that only begins", GZIP, cut(whole, 10)),
        damaged(
            "a member with another checksum",
            GZIP,
            [&one[..], &changed(other.clone(), 8)].concat(),
        ),
        damaged(
            "a member with another size",
            GZIP,
            [&one[..], &changed(other.clone(), 4)].concat(),
        ),
        damaged(
            "a member that is cut where another begins",
            GZIP,
            [&cut(one.clone(), 60), &other[..]].concat(),
        ),
        damaged(
            "a member with something behind it",
            GZIP,
            [&one[..], b"more", &other].concat(),
        ),
    ]
}

fn of_zstd() -> Vec<Case> {
    let whole = zstd();
    let half = whole.len() / 2;
    let mut window = zstd::Encoder::new(Vec::new(), 1).unwrap();
    window
        .set_parameter(zstd::zstd_safe::CParameter::WindowLog(28))
        .unwrap();
    window.write_all(&honest_tar()).unwrap();
    let mut dictionary = zstd();
    // The frame says that it needs dictionary 255.
    dictionary[4] |= 1;
    dictionary.insert(6, 255);
    vec![
        damaged("a zstd that is cut", ZSTD, cut(whole.clone(), half)),
        damaged("a zstd without its checksum", ZSTD, cut(whole.clone(), whole.len() - 4)),
        damaged("a zstd with another checksum", ZSTD, changed(zstd(), 1)),
        damaged("a zstd with something behind it", ZSTD, [&whole[..], b"more"].concat()),
        damaged("a zstd with a window of 256 MiB", ZSTD, window.finish().unwrap()),
        damaged("a zstd that needs a dictionary", ZSTD, dictionary),
        damaged("a zstd that only begins", ZSTD, cut(whole, 5)),
    ]
}

fn of_tar() -> Vec<Case> {
    let thousand = entry(b"x", FILE, &[b'x'; 1000], b"");
    let cut_off = "the layer ends within it";
    let long = entry(b"././@LongLink", b'L', &[b'n'; 300], b"");
    let entry = |what, bytes: Vec<u8>| (what, "entry", Says::Text(cut_off), layer(TAR, bytes)) as Case;
    vec![
        entry("a layer that ends in a file", cut(thousand.clone(), 512 + 990)),
        entry("a layer that ends behind a header", cut(thousand.clone(), 512)),
        entry("a layer that ends in a long name", cut(long, 512 + 299)),
        damaged("a layer that ends in a header", TAR, cut(thousand, 400)),
        damaged("a layer of noise", TAR, b"no archive at all ".repeat(100)),
    ]
}

fn of_headers() -> Vec<Case> {
    let over = "an extended header is over";
    let limit =
        |what, bytes: Vec<u8>| (what, "limit of an extended header", Says::Text(over), layer(TAR, bytes)) as Case;
    let large = vec![b'n'; 2 << 20];
    let mut endless = pax("comment", b"x");
    endless[124..136].copy_from_slice(b"77777777777\0");
    endless[148..156].fill(b' ');
    let sum: u32 = endless[..512].iter().map(|byte| u32::from(*byte)).sum();
    endless[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    vec![
        limit("an extended header of 2 MiB", entry(b"pax", b'x', &large, b"")),
        limit("a long name of 2 MiB", entry(b"././@LongLink", b'L', &large, b"")),
        limit("a long target of 2 MiB", entry(b"././@LongLink", b'K', &large, b"")),
        limit("a header for all entries of 2 MiB", entry(b"pax", b'g', &large, b"")),
        limit("an extended header that says 8 GiB", endless),
    ]
}

pub fn streams() -> Vec<Case> {
    let all = [of_gzip(), of_zstd(), of_tar(), of_headers()];
    all.into_iter().flatten().collect()
}

/// Packs without holding what is packed.
fn packed(how: &str, write: impl FnOnce(&mut dyn Write)) -> Draft {
    match how {
        "gzip" | "gzip, at its best" => {
            let level = match how {
                "gzip" => flate2::Compression::fast(),
                _ => flate2::Compression::best(),
            };
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            write(&mut out);
            layer(GZIP, out.finish().unwrap())
        }
        _ => {
            let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
            write(&mut out);
            layer(ZSTD, out.finish().unwrap())
        }
    }
}

fn zeros(out: &mut dyn Write, mebibytes: usize) {
    let chunk = vec![0; 1 << 20];
    (0..mebibytes).for_each(|_| out.write_all(&chunk).unwrap());
}

/// The header of a file of so many MiB of zeros.
fn header_of(mebibytes: u64) -> Vec<u8> {
    super::draft::spoiled(b"bomb", FILE, b"", move |header| {
        header[124..136].copy_from_slice(format!("{:011o}\0", mebibytes << 20).as_bytes());
    })
}

/// Layers that become far more than they are. They take seconds, so only one command is shown each.
pub fn bombs() -> Vec<Case> {
    const MEBIBYTES: usize = 400;
    let ratio = "limit of the ratio of unpacked to packed size";
    let says = Says::Text("the ratio of unpacked to packed size is over 200");
    let file = |how: &'static str| {
        packed(how, |out| {
            out.write_all(&header_of(MEBIBYTES as u64)).unwrap();
            zeros(out, MEBIBYTES);
        })
    };
    let member = {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        zeros(&mut out, 4);
        let mut member = out.finish().unwrap();
        member[..10].copy_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        member
    };
    let members = [pack("gzip", &header_of(400)), member.repeat(100)].concat();
    // A whiteout of 3,000 bytes takes as much memory until the layer has been read.
    let whiteouts = packed("gzip", |out| {
        for number in 0..22_500_u32 {
            let name = format!("{}.wh.{number:08}", "directory-of-a-long-name/".repeat(120));
            out.write_all(&pax("path", name.as_bytes())).unwrap();
            out.write_all(&entry(b"x", FILE, b"", b"")).unwrap();
        }
    });
    // No layer by itself has too many.
    let of_links = |first: u64| packed("gzip", |out| many_headers(out, first..first + 100_001, b'2')).layers;
    let links = Draft {
        layers: [0, 200_000, 400_000].into_iter().flat_map(of_links).collect(),
        ..honest()
    };
    vec![
        ("a gzip bomb", ratio, says, file("gzip, at its best")),
        ("a zstd bomb", ratio, says, file("zstd")),
        ("a gzip bomb of small members", ratio, says, layer(GZIP, members)),
        (
            "a bomb behind the end of the archive",
            ratio,
            says,
            packed("zstd", |out| {
                out.write_all(&honest_tar()).unwrap();
                zeros(out, MEBIBYTES);
            }),
        ),
        (
            "a bomb of entries",
            "limit of the number of entries",
            Says::Text("the number of entries is over 150000"),
            packed("gzip", |out| many_headers(out, 0..150_001, b'3')),
        ),
        (
            "layers of too many files together",
            "limit of the number of files of the image's layers",
            Says::Text("the number of files of the image's layers is over 300000"),
            links,
        ),
        (
            "a bomb of headers",
            "limit of the number of headers",
            Says::Text("the number of headers is over 600000"),
            packed("gzip", |out| many_headers(out, 0..600_001, b'x')),
        ),
        (
            "a bomb of deletions",
            "limit of the memory for whiteouts of the image's layers",
            Says::Text("the memory for whiteouts of the image's layers is over"),
            whiteouts,
        ),
    ]
}

/// Headers below `dev/`, which make no files unless they are links, with names that are hard to pack.
fn many_headers(out: &mut dyn Write, numbers: Range<u64>, kind: u8) {
    let mut header = entry(b"dev/0000000000000000000000000000000000000000", kind, b"", b"t");
    let (name, empty) = (4..44, header[4..44].iter().map(|byte| u32::from(*byte)).sum::<u32>());
    let sum_at = 148..155;
    let before = u32::from_str_radix(std::str::from_utf8(&header[sum_at.clone()]).unwrap(), 8).unwrap();
    for number in numbers {
        let noise = |at: u64| (number * 3 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xff_ffff_ffff_ffff;
        let text = format!("{:014x}{:014x}{number:012x}", noise(0), noise(1));
        header[name.clone()].copy_from_slice(text.as_bytes());
        let sum = before - empty + text.bytes().map(u32::from).sum::<u32>();
        header[sum_at.clone()].copy_from_slice(format!("{sum:07o}").as_bytes());
        out.write_all(&header).unwrap();
    }
}
