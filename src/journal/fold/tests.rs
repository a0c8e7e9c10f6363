use super::*;
use crate::journal::{append, Event, EventKind};

const DAY: u64 = 20_000;
const AT: u64 = DAY * SECONDS_A_DAY + 3600;

fn time(at: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(at)
}

/// A store with a journal, and the file of its day.
fn journal() -> (tempfile::TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(FOLDER)).unwrap();
    let file = root.path().join(FOLDER).join("2024-10-04.jsonl");
    (root, file)
}

fn run(root: &Path, at: u64, cache: &str) {
    let event = Event {
        digest: Some(Digest::of(b"image").to_string()),
        cache: Some(cache),
        ..Event::of(EventKind::Run, at, "image:1", "ok")
    };
    append(root, &event).unwrap();
}

fn fold_at(root: &Path, at: u64) -> (u64, u64, Folded) {
    let folded = fold(root, time(at)).unwrap();
    let rate = folded.counts.hit_rate(0);
    (rate.hits, rate.misses, folded)
}

#[test]
fn only_what_is_new_is_read() {
    let (root, file) = journal();
    let root = root.path();
    for _ in 0..100 {
        run(root, AT, "hit");
    }
    let length = fs::metadata(&file).unwrap().len();
    let (hits, _, folded) = fold_at(root, AT);
    assert_eq!((hits, folded.new_bytes, folded.garbage), (100, length, 0));
    run(root, AT + 1, "miss");
    run(root, AT + SECONDS_A_DAY, "miss");
    let (hits, misses, folded) = fold_at(root, AT + SECONDS_A_DAY);
    let line = (fs::metadata(&file).unwrap().len() - length) * 2;
    assert_eq!((hits, misses, folded.new_bytes), (100, 2, line));
    assert_eq!(folded.counts.last_use(&Digest::of(b"image")), Some(AT + SECONDS_A_DAY));
    let state = fs::metadata(root.join("journal/fold.json"))
        .unwrap()
        .modified()
        .unwrap();
    let (hits, misses, folded) = fold_at(root, AT + SECONDS_A_DAY);
    assert_eq!((hits, misses, folded.new_bytes), (100, 2, 0));
    // Nothing new is nothing to write.
    assert_eq!(
        fs::metadata(root.join("journal/fold.json"))
            .unwrap()
            .modified()
            .unwrap(),
        state
    );
    assert_eq!(fs::read_dir(root.join("journal")).unwrap().count(), 3);
}

#[test]
fn a_torn_line_waits_for_its_end_and_garbage_is_counted_as_such() {
    let (root, file) = journal();
    let root = root.path();
    run(root, AT, "hit");
    let mut out = OpenOptions::new().append(true).open(&file).unwrap();
    out.write_all(b"{\"at\":1728000000,\"kind\":\"ru").unwrap();
    let (hits, _, folded) = fold_at(root, AT);
    assert_eq!((hits, folded.garbage), (1, 0));
    // The writer was killed: the next line stands behind it.
    run(root, AT, "hit");
    out.write_all(b"\0\0\0\0\n\xff\xfe\n[[[[\n").unwrap();
    run(root, AT, "hit");
    let (hits, _, folded) = fold_at(root, AT);
    assert_eq!((hits, folded.garbage), (3, 3));
}

#[test]
fn a_file_that_vanished_shrank_or_is_another_one_is_told_apart() {
    let (root, file) = journal();
    let root = root.path();
    for _ in 0..10 {
        run(root, AT, "hit");
    }
    let line = fs::metadata(&file).unwrap().len() / 10;
    assert_eq!(fold_at(root, AT).0, 10);
    // Cut short: the rest was counted, what comes is new.
    OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(line * 4)
        .unwrap();
    let (hits, _, folded) = fold_at(root, AT);
    assert_eq!((hits, folded.new_bytes), (10, 0));
    run(root, AT, "hit");
    assert_eq!(fold_at(root, AT).0, 11);
    // Another one: shorter, longer, emptied.
    for (number, before) in [(2, 11), (40, 13)] {
        fs::remove_file(&file).unwrap();
        for at in 0..number {
            run(root, AT + 7 + number + at, "hit");
        }
        assert_eq!(fold_at(root, AT + 100).0, before + number);
    }
    fs::write(&file, "").unwrap();
    assert_eq!(fold_at(root, AT + 100).0, 53);
    run(root, AT, "hit");
    assert_eq!(fold_at(root, AT + 100).0, 54);
    fs::remove_file(&file).unwrap();
    assert_eq!(fold_at(root, AT + 100).0, 54);
    // What came back after that is counted as what it is by then: a file that nobody knows.
    run(root, AT, "hit");
    assert_eq!(fold_at(root, AT + 100).0, 55);
}

#[test]
fn a_state_that_is_broken_or_of_another_version_is_made_anew() {
    let (root, file) = journal();
    let root = root.path();
    run(root, AT, "hit");
    let state = root.join("journal/fold.json");
    fold_at(root, AT);
    let whole = fs::read_to_string(&state).unwrap();
    let length = fs::metadata(&file).unwrap().len();
    let other = whole.replace("\"version\":1", "\"version\":2");
    for broken in ["", "{", "null", &whole[..whole.len() / 2], &other] {
        fs::write(&state, broken).unwrap();
        let (hits, _, folded) = fold_at(root, AT);
        assert_eq!((hits, folded.new_bytes), (1, length), "{broken}");
        assert_eq!(fs::read_to_string(&state).unwrap(), whole);
    }
    // Nor does a link lead anywhere, or a pipe keep anybody waiting.
    fs::remove_file(&state).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &state).unwrap();
    assert_eq!(fold_at(root, AT).0, 1);
    std::os::unix::fs::symlink(&file, root.join("journal/2024-10-05.jsonl")).unwrap();
    fs::create_dir(root.join("journal/2024-10-06.jsonl")).unwrap();
    assert_eq!(fold_at(root, AT).0, 1);
}

#[test]
fn days_of_either_name_count_until_they_are_too_old() {
    let (root, file) = journal();
    let root = root.path();
    run(root, AT, "hit");
    fs::copy(&file, root.join(format!("journal/{}.jsonl", DAY - 1))).unwrap();
    fs::write(root.join("journal/notes"), "{}\n").unwrap();
    assert_eq!(fold_at(root, AT).0, 2);
    let later = AT + 36 * SECONDS_A_DAY;
    let (hits, _, folded) = fold_at(root, later);
    assert_eq!((hits, folded.counts.last_use(&Digest::of(b"image"))), (0, None));
    assert_eq!(fold_at(tempfile::tempdir().unwrap().path(), AT).0, 0);
}

#[test]
fn many_fold_and_append_at_once_and_every_event_counts_once() {
    let (root, _) = journal();
    let root = root.path();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                for _ in 0..250 {
                    run(root, AT, if writer == 0 { "miss" } else { "hit" });
                }
            });
        }
        for _ in 0..4 {
            scope.spawn(|| {
                let mut before = 0;
                for _ in 0..50 {
                    let (hits, _, _) = fold_at(root, AT);
                    assert!(hits >= before && hits <= 750, "{hits} after {before}");
                    before = hits;
                }
            });
        }
    });
    let (hits, misses, folded) = fold_at(root, AT);
    assert_eq!((hits, misses, folded.garbage), (750, 250, 0));
}

#[test]
fn a_journal_that_cannot_be_written_is_summed_up_all_the_same() {
    use std::os::unix::fs::PermissionsExt;
    let (root, _) = journal();
    run(root.path(), AT, "hit");
    let folder = root.path().join(FOLDER);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(fold_at(root.path(), AT).0, 1);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(!folder.join("fold.json").exists());
}
