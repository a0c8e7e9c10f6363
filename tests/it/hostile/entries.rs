//! Entries of layers that no honest layer has.

use super::cases::Case;
use super::draft::{archive_of, entry, honest, layer, pax, spoiled, Draft, Says, TAR};

const FILE: u8 = b'0';
const HARD: u8 = b'1';
const SYMBOLIC: u8 = b'2';
const CHARACTER: u8 = b'3';
const BLOCK: u8 = b'4';
const DIRECTORY: u8 = b'5';
const PIPE: u8 = b'6';

fn plain(entries: &[Vec<u8>]) -> Draft {
    layer(TAR, archive_of(entries))
}

fn file(path: &str) -> Vec<u8> {
    entry(path.as_bytes(), FILE, b"x", b"")
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(path.as_bytes(), SYMBOLIC, b"", target.as_bytes())
}

fn hard(path: &str, target: &str) -> Vec<u8> {
    entry(path.as_bytes(), HARD, b"", target.as_bytes())
}

fn case(what: &'static str, variant: &'static str, says: &'static str, entries: &[Vec<u8>]) -> Case {
    (what, variant, Says::Text(says), plain(entries))
}

fn long_name(name: &[u8]) -> Vec<u8> {
    entry(b"././@LongLink", b'L', name, b"")
}

fn names() -> Vec<Case> {
    let climbs = "it has a component ..";
    let not_normal = "it has an empty component or .";
    let long = "it is too long or too deep";
    let one = |what, says, path: &str| case(what, "path", says, &[file(path)]);
    vec![
        one("a name that climbs", climbs, "../canary/x"),
        one("a name that climbs from within", climbs, "a/../../canary/x"),
        one("a name that only climbs", climbs, "a/.."),
        one("an absolute name that climbs", climbs, "/../canary/x"),
        one("a name that climbs from here", climbs, "./../canary/x"),
        one("a name with an empty component", not_normal, "a//b"),
        one("a name with a component that is here", not_normal, "a/./b"),
        case(
            "a long name that climbs",
            "path",
            climbs,
            &[long_name(b"a/../../x\0"), file("x")],
        ),
        case(
            "an extended name that climbs",
            "path",
            climbs,
            &[pax("path", b"../../x"), file("x")],
        ),
        case(
            "a name with a NUL",
            "path",
            "it has a NUL, a control character or a backslash",
            &[pax("path", b"a\0b"), file("x")],
        ),
        case(
            "a long name with a NUL within",
            "path",
            "it has a NUL, a control character or a backslash",
            &[long_name(b"a\0/../b\0"), file("x")],
        ),
        case(
            "an empty extended name",
            "entry",
            "it is the root, but no directory",
            &[pax("path", b""), file("x")],
        ),
        case(
            "a component of 256 bytes",
            "path",
            long,
            &[pax("path", &[b'n'; 256]), file("x")],
        ),
        case(
            "a path of 5,000 bytes",
            "path",
            long,
            &[pax("path", &b"dir/".repeat(1250)), file("x")],
        ),
        case(
            "a path of 129 components",
            "path",
            long,
            &[pax("path", &[&b"d/".repeat(128)[..], b"x"].concat()), file("x")],
        ),
        case(
            "a name that is no text",
            "entry",
            "its name is not UTF-8",
            &[entry(b"a\xff\xfe", FILE, b"x", b"")],
        ),
        case(
            "a root that is a file",
            "entry",
            "it is the root, but no directory",
            &[file(".")],
        ),
        case(
            "a root that is a link",
            "entry",
            "it is the root, but no directory",
            &[link("./", "/tmp")],
        ),
        case(
            "a root that is a hard link",
            "entry",
            "it is the root, but no directory",
            &[hard("/", "etc/passwd")],
        ),
    ]
}

fn links() -> Vec<Case> {
    let missing = "its target is missing, too long or not UTF-8";
    let outside = "it has a component ..";
    let no_file = "a hard link to something that is no file of the layer";
    let refused = |what, says, entries: &[Vec<u8>]| case(what, "entry", says, entries);
    vec![
        case(
            "a hard link to what is outside",
            "path",
            outside,
            &[hard("h", "../../etc/passwd")],
        ),
        case(
            "an absolute hard link that climbs",
            "path",
            outside,
            &[hard("h", "/../etc/passwd")],
        ),
        case(
            "a hard link to a file of this machine",
            "visit",
            "\"h\"",
            &[hard("h", "/etc/passwd")],
        ),
        case("a hard link to itself", "visit", "\"h\"", &[file("h"), hard("h", "h")]),
        case(
            "a hard link to what comes later",
            "visit",
            "\"h\"",
            &[hard("h", "x"), file("x")],
        ),
        case(
            "a hard link to a directory",
            "visit",
            no_file,
            &[entry(b"d", DIRECTORY, b"", b""), hard("h", "d")],
        ),
        case(
            "a hard link to a link",
            "visit",
            no_file,
            &[link("l", "/etc/passwd"), hard("h", "l")],
        ),
        case(
            "a hard link through a link",
            "visit",
            "\"h\"",
            &[link("l", "/etc"), hard("h", "l/passwd")],
        ),
        refused(
            "a hard link to the root",
            "it is a hard link to the root",
            &[hard("h", "./")],
        ),
        refused("a hard link without a target", missing, &[hard("h", "")]),
        refused("a link without a target", missing, &[link("l", "")]),
        refused(
            "a link whose target is no text",
            missing,
            &[entry(b"l", SYMBOLIC, b"", b"\xff")],
        ),
        refused(
            "a link whose target has a NUL",
            missing,
            &[pax("linkpath", b"a\0b"), link("l", "a")],
        ),
        refused(
            "a link whose target has 5,000 bytes",
            missing,
            &[pax("linkpath", &[b't'; 5000]), link("l", "a")],
        ),
        case(
            "a file through a link to the root",
            "visit",
            "\"l/tmp/x\"",
            &[link("l", "/"), file("l/tmp/x")],
        ),
        case(
            "a file through a link that climbs",
            "visit",
            "\"l/x\"",
            &[link("l", "../../../.."), file("l/x")],
        ),
        case(
            "a file through a link within the layer",
            "visit",
            "\"l/x\"",
            &[entry(b"d", DIRECTORY, b"", b""), link("l", "d"), file("l/x")],
        ),
        case(
            "a file through two links",
            "visit",
            "\"b/c/x\"",
            &[link("a", "/tmp"), link("b", "a"), file("b/c/x")],
        ),
        case(
            "a directory through a link",
            "visit",
            "\"l/d\"",
            &[link("l", "/tmp"), entry(b"l/d", DIRECTORY, b"", b"")],
        ),
        case(
            "a link through a link",
            "visit",
            "\"l/k\"",
            &[link("l", "/tmp"), link("l/k", "x")],
        ),
        case("a file below a file", "visit", "\"f/x\"", &[file("f"), file("f/x")]),
        case(
            "a directory below a file",
            "visit",
            "\"f/d\"",
            &[file("f"), entry(b"f/d", DIRECTORY, b"", b"")],
        ),
        case(
            "a file through a link that a hard link names",
            "visit",
            no_file,
            &[link("l", "/tmp"), hard("m", "l"), file("m/x")],
        ),
    ]
}

fn kinds() -> Vec<Case> {
    let one = |what, says, path: &str, kind| case(what, "entry", says, &[entry(path.as_bytes(), kind, b"", b"")]);
    let unknown = "it is of an unknown kind";
    vec![
        one("a character device", "it is a device node", "etc/null", CHARACTER),
        one("a disk", "it is a device node", "disk", BLOCK),
        case(
            "a device that the overlay takes for a deletion",
            "entry",
            "it is a device node",
            &[spoiled(b"etc/passwd", CHARACTER, b"", |header| {
                header[329..345].copy_from_slice(b"0000000\x000000000\0")
            })],
        ),
        one("a device beside dev", "it is a device node", "device/null", CHARACTER),
        one("a pipe", "it is a named pipe", "pipe", PIPE),
        one("a sparse file", "it is a sparse file of GNU tar", "sparse", b'S'),
        case(
            "a sparse file by an extended header",
            "entry",
            "it describes a sparse file",
            &[pax("GNU.sparse.major", b"1"), file("x")],
        ),
        case(
            "a sparse file of an exabyte",
            "entry",
            "it describes a sparse file",
            &[pax("GNU.sparse.realsize", b"1152921504606846976"), file("x")],
        ),
        one("a label of a volume", unknown, "label", b'V'),
        one("the rest of a file of another volume", unknown, "rest", b'M'),
        one("a directory with a list", unknown, "list", b'D'),
        one("a socket", unknown, "socket", b's'),
        one("an entry of no known kind", unknown, "what", b'Z'),
    ]
}

fn whiteouts() -> Vec<Case> {
    let nothing = "it is a whiteout of no possible name";
    let below = "it lies below a whiteout";
    let one = |what, says, path: &str| case(what, "entry", says, &[entry(path.as_bytes(), FILE, b"", b"")]);
    vec![
        one("a whiteout of nothing", nothing, ".wh."),
        one("a whiteout of its own directory", nothing, "a/.wh.."),
        one("a whiteout of the directory above", nothing, "a/.wh..."),
        one("a whiteout of a whiteout", nothing, "a/.wh..wh.x"),
        one("a whiteout of all whiteouts", nothing, ".wh..wh..wh..opq"),
        one("a whiteout of aufs", nothing, ".wh..wh.plnk"),
        one("a file below a whiteout", below, "a/.wh.b/c"),
        one("a file below an opaque marker", below, "a/.wh..wh..opq/x"),
        one("a whiteout below a whiteout", below, ".wh.a/.wh.b"),
    ]
}

fn numbers() -> Vec<Case> {
    let no_number = "its size or mode is no number";
    let size = |field: [u8; 12]| spoiled(b"a", FILE, b"", move |header| header[124..136].copy_from_slice(&field));
    let mode = spoiled(b"a", FILE, b"", |header| header[100..108].copy_from_slice(b"9000644\0"));
    let mut sum = file("a");
    sum[148] ^= 1;
    let largest = size(*b"\x80\0\0\0\x3f\xff\xff\xff\xff\xff\xff\xff");
    let over = "the unpacked size is over";
    vec![
        case(
            "a size of 2^72",
            "entry",
            no_number,
            &[size(*b"\x80\x01\0\0\0\0\0\0\0\0\0\0")],
        ),
        case(
            "a size of 2^63",
            "entry",
            no_number,
            &[size(*b"\x80\0\0\0\x80\0\0\0\0\0\0\0")],
        ),
        case("a size with a sign", "entry", no_number, &[size(*b"+0000000000\0")]),
        case(
            "a size with something behind it",
            "entry",
            no_number,
            &[size(*b"00000\x00000001")],
        ),
        case(
            "a header whose size is negative",
            "damaged",
            "read layer",
            &[size([0xff; 12])],
        ),
        case("no size", "damaged", "read layer", &[size([b' '; 12])]),
        case("a mode that is no number", "entry", no_number, &[mode]),
        case("a header with a wrong sum", "damaged", "read layer", &[sum]),
        case(
            "a file of four exabytes",
            "limit of the unpacked size",
            over,
            &[largest],
        ),
        case(
            "two files that are too large together",
            "limit of the unpacked size",
            over,
            &[file("a"), size(*b"\x80\0\0\0\0\0\0\x01\x80\0\0\0")],
        ),
    ]
}

/// Entries that some readers see and others do not.
fn smuggled() -> Vec<Case> {
    let hidden = file("hidden");
    let size = "it has a size, but is no file";
    let with_size = |what, kind| case(what, "entry", size, &[entry(b"dev/x", kind, &hidden, b"t")]);
    let global = |record: &[u8]| entry(b"pax", b'g', record, b"");
    let to_all = "it gives a name or a size to all entries";
    let damaged = "a record is damaged";
    let record = |what, record: &[u8]| case(what, "entry", damaged, &[entry(b"pax", b'x', record, b""), file("x")]);
    let differ = "its two headers give different sizes";
    vec![
        with_size("entries in a link", SYMBOLIC),
        with_size("entries in a hard link", HARD),
        with_size("entries in a directory", DIRECTORY),
        with_size("entries in a pipe", PIPE),
        with_size("entries in a device", CHARACTER),
        case(
            "a size that an extended header makes larger",
            "entry",
            differ,
            &[pax("size", b"512"), file("a"), hidden.clone()],
        ),
        case(
            "a size that an extended header takes away",
            "entry",
            differ,
            &[pax("size", b"0"), entry(b"a", FILE, &hidden, b"")],
        ),
        case(
            "an extended size that is no number",
            "entry",
            damaged,
            &[pax("size", b"0x1"), file("a")],
        ),
        case(
            "a name for all entries",
            "entry",
            to_all,
            &[global(b"10 path=x\n"), file("a")],
        ),
        case(
            "a target for all entries",
            "entry",
            to_all,
            &[global(b"14 linkpath=x\n"), file("a")],
        ),
        case(
            "a size for all entries",
            "entry",
            to_all,
            &[global(b"10 size=1\n"), file("a")],
        ),
        case(
            "all entries sparse",
            "entry",
            "it describes a sparse file",
            &[global(b"22 GNU.sparse.major=1\n"), file("a")],
        ),
        record("a record longer than its header", b"99 path=x\n"),
        record("a record without an end", b"9 path=x "),
        record("a record of no bytes", b"0 path=x\n"),
        record("a record without a value", b"7 path\n"),
        record("a record without a length", b"path=x\n"),
        record("a record of 2^64 bytes", b"18446744073709551616 path=x\n"),
        case(
            "entries behind one block of zeros",
            "entry",
            "more entries follow a single zero block",
            &[vec![0; 512], hidden],
        ),
    ]
}

fn across_layers() -> Vec<Case> {
    let layers = |all: &[&[Vec<u8>]]| Draft {
        layers: all
            .iter()
            .map(|entries| (TAR.to_owned(), archive_of(entries)))
            .collect(),
        ..honest()
    };
    vec![
        (
            "a hard link to a file of the layer below",
            "visit",
            Says::Text("\"b\""),
            layers(&[&[file("a")], &[hard("b", "a")]]),
        ),
        (
            "a hard link through a link of the layer below",
            "visit",
            Says::Text("\"b\""),
            layers(&[&[link("l", "/etc")], &[hard("b", "l/passwd")]]),
        ),
    ]
}

pub fn entries() -> Vec<Case> {
    let all = [
        names(),
        links(),
        kinds(),
        whiteouts(),
        numbers(),
        smuggled(),
        across_layers(),
    ];
    all.into_iter().flatten().collect()
}
