//! Runs contenders in turns and keeps the time of each run.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Clock ticks a second in `/proc/self/stat`: fixed for user space on Linux.
const TICKS: f64 = 100.0;

/// One contender: what to do before its turn, off the clock, and the command that is timed.
pub struct Turn<'a> {
    name: String,
    before: Box<dyn Fn(usize) + 'a>,
    command: Box<dyn Fn(usize) -> Command + 'a>,
}

impl<'a> Turn<'a> {
    pub fn new(name: &str, command: impl Fn(usize) -> Command + 'a) -> Self {
        Self {
            name: name.to_owned(),
            before: Box::new(|_| ()),
            command: Box::new(command),
        }
    }

    /// Does this before each turn, with the number of the round.
    pub fn before(mut self, work: impl Fn(usize) + 'a) -> Self {
        self.before = Box::new(work);
        self
    }
}

/// What one contender took, round by round.
pub struct Times {
    pub name: String,
    /// Seconds from the start to the end.
    pub wall: Vec<f64>,
    /// Seconds of processor time of the command and all its children, to 10 ms.
    pub cpu: Vec<f64>,
}

/// Runs all in turns, `warm` rounds unmeasured first; every other round goes backwards, so that nobody always follows the
/// one that fills the caches.
pub fn take_turns(warm: usize, rounds: usize, turns: &[Turn<'_>]) -> Vec<Times> {
    let mut times: Vec<Times> = turns
        .iter()
        .map(|turn| Times {
            name: turn.name.clone(),
            wall: Vec::new(),
            cpu: Vec::new(),
        })
        .collect();
    for round in 0..warm + rounds {
        let mut order: Vec<_> = turns.iter().zip(&mut times).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (turn, times) in order {
            (turn.before)(round);
            let (wall, cpu) = run((turn.command)(round));
            if round >= warm {
                times.wall.push(wall);
                times.cpu.push(cpu);
            }
        }
    }
    times
}

fn run(mut command: Command) -> (f64, f64) {
    command.stdin(Stdio::null());
    let before = children_cpu();
    let start = Instant::now();
    let done = command.output();
    let wall = start.elapsed().as_secs_f64();
    let cpu = children_cpu() - before;
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}\n{errors}", done.status);
    (wall, cpu)
}

/// Processor seconds of all children that have ended, and theirs.
fn children_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in parentheses, may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| {
        fields
            .get(field)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or_default()
    };
    (ticks(13) + ticks(14)) / TICKS
}
