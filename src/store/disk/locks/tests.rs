//! Waiting for another process: for whom, how long, and what ends it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{LazyLock, Mutex};
use std::thread::JoinHandle;

use super::*;
use crate::store::disk::looks::held_among;
use crate::store::key::Step;
use crate::store::tests::store;
use crate::store::Store;

/// Takes the lock of the file given first, says so, and holds it until it is killed.
const HOLDER: &str = r#"
import fcntl, os, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
os.setxattr(sys.argv[1], "user.gantry.holder", f"{os.getpid()} 0 makes bread".encode())
print("held", flush=True)
sys.stdin.read()
"#;

fn holder(path: &Path) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", HOLDER]).arg(path);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "held\n");
    child
}

/// Passes on what is said.
struct Listener(Mutex<Sender<String>>);

impl Progress for Listener {
    fn step(&self, verb: &str, object: &str) {
        let _ = self.0.lock().unwrap().send(format!("{verb} {object}"));
    }
    fn bytes(&self, _: u64, _: u64) {}
    fn warn(&self, _: &str) {}
    fn spent(&self, _: &'static str, _: Duration) {}
}

fn impatient(store: &Store, told_after: Duration, stalled_after: Duration) -> Store {
    let waits = Waits {
        told_after,
        stalled_after,
        beside_after: stalled_after,
        longest_pause: Duration::from_millis(2),
        tell: |_| (),
    };
    Store {
        disk: store.disk.clone().waiting(waits),
        ..store.clone()
    }
}

/// What takes milliseconds has hung by then.
const WATCHDOG: Duration = Duration::from_secs(20);

/// Starts to wait for the lock of `flight`.
fn wait_for(waiter: Store, flight: Flight<'static>) -> (Receiver<String>, JoinHandle<Result<bool, StoreError>>) {
    let (tell, told) = channel();
    let thread = std::thread::spawn(move || {
        let progress = Listener(Mutex::new(tell));
        let task = Task {
            does: "makes cake",
            progress: &progress,
        };
        waiter.locks().exclusive(flight, task).map(|lock| lock.has_waited())
    });
    (told, thread)
}

#[test]
fn a_waiter_says_at_once_that_it_waits_and_later_for_whom() {
    let (_scratch, store) = store();
    static OVEN: LazyLock<Key> = LazyLock::new(|| Key::of(Step::CodeLayer).with("oven").finish());
    let flight = Flight::Layer(&OVEN);
    let mut holder = holder(&store.root().join("locks").join(flight.file_name()));
    let (told, thread) = wait_for(impatient(&store, Duration::from_millis(20), WATCHDOG), flight);
    let said = told.recv_timeout(WATCHDOG).unwrap();
    assert_eq!(said, "Waiting for another build that makes cake");
    let said = told.recv_timeout(WATCHDOG).unwrap();
    let expected = format!(
        "Waiting for process {}, which makes bread (for 0 s so far)",
        holder.id()
    );
    assert_eq!(said, expected);
    // It lets go by being killed: nothing of it has to run for that.
    holder.kill().unwrap();
    assert!(thread.join().unwrap().unwrap());
    holder.wait().unwrap();
}

#[test]
fn a_wait_that_belongs_to_no_step_is_told_by_the_store_when_it_is_long() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let (_scratch, store) = store();
    let mut holder = holder(&store.root().join("locks/tool-oven"));
    let waiter = impatient(&store, Duration::from_millis(20), WATCHDOG);
    let waiter = waiter.telling(|holder| TOLD.lock().unwrap().push(holder.to_owned()));
    let (_told, thread) = wait_for(waiter, Flight::Tool("oven"));
    let begun = Instant::now();
    while TOLD.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < WATCHDOG, "nothing is told");
        std::thread::yield_now();
    }
    let expected = format!("process {}, which makes bread (for 0 s so far)", holder.id());
    assert_eq!(*TOLD.lock().unwrap(), [expected]);
    holder.kill().unwrap();
    thread.join().unwrap().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_holder_without_a_sign_of_life_is_given_up_and_named() {
    let (_scratch, store) = store();
    let mut holder = holder(&store.root().join("locks/tool-oven"));
    let waiter = impatient(&store, WATCHDOG, Duration::from_millis(20));
    let stalled = waiter
        .locks()
        .exclusive(Flight::Tool("oven"), Task::silent("makes cake"))
        .unwrap_err();
    let expected = format!("process {}, which makes bread", holder.id());
    assert!(
        matches!(&stalled, StoreError::Stalled { holder, .. } if *holder == expected),
        "{stalled}"
    );
    assert_eq!(stalled.kind(), crate::policy::Kind::Busy);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn what_can_be_done_beside_a_holder_is_waited_for_less() {
    let (_scratch, store) = store();
    let digest = Digest::of(b"bread");
    let waits = Waits {
        stalled_after: WATCHDOG,
        ..impatient(&store, WATCHDOG, Duration::from_millis(20)).disk.waits()
    };
    let waiter = Store {
        disk: store.disk.clone().waiting(waits),
        ..store.clone()
    };
    for flight in [Flight::Tag(&digest), Flight::Image(&digest)] {
        let _held = store.locks().exclusive(flight, Task::silent("makes bread")).unwrap();
        let begun = Instant::now();
        // In a thread of its own, as another process: what is held here is none of its own.
        let wait = || waiter.locks().wait_out(flight, Task::silent("makes cake"));
        let given_up = std::thread::scope(|scope| scope.spawn(wait).join().unwrap());
        assert!(matches!(given_up, Err(StoreError::Stalled { .. })), "{given_up:?}");
        assert!(begun.elapsed() < WATCHDOG);
    }
}

#[test]
fn a_file_that_lost_its_name_while_it_was_locked_is_no_lock() {
    let (_scratch, store) = store();
    let path = store.root().join("locks/bread");
    let opened = open_lock(&path).unwrap();
    // As a collector does, which holds it alone.
    fs::remove_file(&path).unwrap();
    let tried = |file| try_opened(file, &path, Rank::Image, Mode::Alone).unwrap();
    assert!(matches!(tried(opened), Tried::Gone));
    let held = try_file(&path, Rank::Image, Mode::Alone).unwrap();
    assert!(held.is_some() && matches!(tried(open_lock(&path).unwrap()), Tried::Held(_)));
}

#[test]
fn a_holder_that_gets_on_is_waited_for() {
    let (_scratch, store) = store();
    let name = Flight::Tool("oven");
    let held = store.locks().exclusive(name, Task::silent("makes bread")).unwrap();
    let stalled_after = Duration::from_secs(1);
    let waiter = impatient(&store, WATCHDOG, stalled_after);
    let (done, ended) = channel();
    std::thread::spawn(move || {
        let waited = waiter
            .locks()
            .exclusive(Flight::Tool("oven"), Task::silent("makes cake"));
        done.send(waited.map(|_| ())).unwrap();
    });
    // Several times as long as a silent one would be waited for.
    let begun = Instant::now();
    while begun.elapsed() < 4 * stalled_after {
        held.lock.touch();
        assert!(ended.try_recv().is_err(), "it was given up");
        std::thread::yield_now();
    }
    drop(held);
    ended.recv_timeout(WATCHDOG).unwrap().unwrap();
}

#[test]
fn only_bytes_are_the_progress_of_a_download() {
    let (_scratch, store) = store();
    let digest = Digest::of(b"bread");
    let mut partial = store
        .downloads()
        .partial(&digest, Task::silent("downloads bread"))
        .unwrap();
    partial.append(b"br").unwrap();
    let waiter = impatient(&store, WATCHDOG, Duration::from_millis(50));
    let (done, ended) = channel();
    let thread = std::thread::spawn(move || {
        let stalled = waiter.downloads().partial(&digest, Task::silent("downloads bread"));
        done.send(()).unwrap();
        stalled.map(|_| ()).unwrap_err()
    });
    // Another time is none.
    let begun = Instant::now();
    while ended.try_recv().is_err() {
        assert!(begun.elapsed() < WATCHDOG, "it waits and waits");
        partial.touch();
    }
    let stalled = thread.join().unwrap();
    let expected = format!("process {}, which downloads bread", std::process::id());
    assert!(
        matches!(&stalled, StoreError::Stalled { holder, .. } if *holder == expected),
        "{stalled}"
    );
}

#[test]
fn a_finished_download_is_free_while_its_bytes_are_used() {
    let (_scratch, store) = store();
    let digest = Digest::of(b"bread");
    let mut partial = store
        .downloads()
        .partial(&digest, Task::silent("downloads bread"))
        .unwrap();
    partial.append(b"bread").unwrap();
    let file = partial.commit(5).unwrap();
    assert_eq!(lock::holder(&file), None);
    assert!(matches!(lock::try_lock(file, Mode::Alone, 0), Ok(Ok(_))));
}

#[test]
#[should_panic(expected = "waits for a lock of rank")]
fn two_layers_are_not_locked_by_one_thread() {
    let (_scratch, store) = store();
    let [one, two] = ["one", "two"].map(|name| Key::of(Step::CodeLayer).with(name).finish());
    let _one = store
        .locks()
        .exclusive(Flight::Layer(&one), Task::silent("makes one"))
        .unwrap();
    let _ = store.locks().exclusive(Flight::Layer(&two), Task::silent("makes two"));
}

#[test]
fn a_thread_that_waits_for_another_one_does_not_call_it_a_process() {
    let (_scratch, store) = store();
    static OVEN: LazyLock<Key> = LazyLock::new(|| Key::of(Step::CodeLayer).with("own oven").finish());
    let held = store
        .locks()
        .exclusive(Flight::Layer(&OVEN), Task::silent("makes bread"))
        .unwrap();
    let (told, thread) = wait_for(impatient(&store, WATCHDOG, WATCHDOG), Flight::Layer(&OVEN));
    let said = told.recv_timeout(WATCHDOG).unwrap();
    assert_eq!(said, "Waiting for another part of this command that makes cake");
    drop(held);
    assert!(thread.join().unwrap().unwrap());
}

#[test]
fn of_many_files_those_that_are_held_are_found_at_once() {
    let (_scratch, store) = store();
    let path = |digest: &Digest| store.root().join("leases").join(digest.hex());
    let images: Vec<Digest> = (0..100).map(|number: u32| Digest::of(&number.to_le_bytes())).collect();
    let paths: Vec<PathBuf> = images.iter().map(path).collect();
    let held = || held_among(paths.iter(), Rank::Lease).unwrap();
    assert!(held().is_empty() && paths.iter().all(|path| !path.exists()));
    let mut leases: Vec<Lease> = images.iter().map(|image| store.locks().lease(image).unwrap()).collect();
    assert_eq!(held().len(), 100);
    assert!(try_idle(&paths[7], Rank::Lease).unwrap().is_none());
    drop(leases.remove(7));
    assert!(held().len() == 99 && !held().contains(&paths[7]));
    assert!(try_idle(&paths[7], Rank::Lease).unwrap().is_some());
}
