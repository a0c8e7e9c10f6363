//! The table on standard output, and the JSON document beside it.

use std::path::{Path, PathBuf};
use std::{fs, thread};

use serde_json::{json, Value};

use super::measure::Times;

/// Which of the times a row is about.
#[derive(Clone, Copy)]
pub enum Measure {
    WallMs,
    WallS,
    CpuS,
}

impl Measure {
    fn unit(self) -> &'static str {
        match self {
            Self::WallMs => "ms",
            Self::WallS => "s",
            Self::CpuS => "CPU s",
        }
    }

    fn of(self, times: &Times) -> Vec<f64> {
        match self {
            Self::WallMs => times.wall.iter().map(|seconds| seconds * 1e3).collect(),
            Self::WallS => times.wall.clone(),
            Self::CpuS => times.cpu.clone(),
        }
    }
}

/// The arguments after `cargo bench --bench NAME --`.
pub struct Options {
    rounds: Option<usize>,
    json: Option<PathBuf>,
    compare: Option<PathBuf>,
}

impl Options {
    /// Reads `--rounds N`, `--json FILE` and `--compare FILE`.
    pub fn read() -> Self {
        let mut this = Self {
            rounds: None,
            json: None,
            compare: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--rounds" => this.rounds = Some(value().parse().unwrap()),
                "--json" => this.json = Some(value().into()),
                "--compare" => this.compare = Some(value().into()),
                // What cargo adds.
                "--bench" => (),
                other => panic!("unknown argument {other}: --rounds N, --json FILE, --compare FILE"),
            }
        }
        this
    }

    /// Rounds to run: what was asked for, else `usual`.
    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual).max(1)
    }
}

/// The rows of one bench.
pub struct Report {
    name: &'static str,
    options: Options,
    rows: Vec<Value>,
}

impl Report {
    pub fn new(name: &'static str, options: Options) -> Self {
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!(
            "{name}: {cores} cores, load {}",
            load.split(' ').next().unwrap_or_default()
        );
        Self {
            name,
            options,
            rows: Vec::new(),
        }
    }

    pub fn rounds(&self, usual: usize) -> usize {
        self.options.rounds(usual)
    }

    /// One line: median and minimum of each contender, and the first one's median over each other's.
    pub fn row(&mut self, what: &str, measure: Measure, times: &[Times]) {
        let mut cells = Vec::new();
        let mut ratios = Vec::new();
        let mut first = None;
        for contender in times {
            let values = measure.of(contender);
            let (median, minimum) = (median(&values), values.iter().copied().fold(f64::INFINITY, f64::min));
            cells.push(format!("{} {median:.2} ({minimum:.2})", contender.name));
            match &first {
                None => first = Some((contender.name.clone(), median)),
                Some((name, ours)) => ratios.push(format!("{name}/{} {:.3}", contender.name, ours / median)),
            }
            self.rows.push(json!({
                "what": what, "who": contender.name, "unit": measure.unit(),
                "median": median, "minimum": minimum, "rounds": values.len(),
            }));
        }
        println!(
            "{what:52} {:6} {}   {}",
            measure.unit(),
            cells.join("   "),
            ratios.join(" ")
        );
    }

    /// One line of a number that is no time of a contender.
    pub fn number(&mut self, what: &str, who: &str, unit: &str, value: f64) {
        println!("{what:52} {unit:6} {who} {value:.2}");
        self.rows.push(json!({
            "what": what, "who": who, "unit": unit, "median": value, "minimum": value, "rounds": 1,
        }));
    }

    /// Writes `target/bench/NAME.json`, or where `--json` says, and prints the comparison that was asked for.
    pub fn finish(self) {
        let path = self.options.json.clone().unwrap_or_else(|| {
            // Benches are built in target/<triple>/release/deps.
            let built = std::env::current_exe().unwrap();
            let target = built.ancestors().nth(4).unwrap_or(Path::new("target"));
            target.join("bench").join(format!("{}.json", self.name))
        });
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).unwrap();
        }
        if let Some(old) = &self.options.compare {
            let old: Value = serde_json::from_slice(&fs::read(old).unwrap()).unwrap();
            compare(old["rows"].as_array().map_or(&[], Vec::as_slice), &self.rows);
        }
        let document = json!({"bench": self.name, "rows": self.rows});
        fs::write(&path, format!("{document:#}\n")).unwrap();
        println!("{}", path.display());
    }
}

/// Prints each row that both runs have: before, now, and the ratio.
fn compare(before: &[Value], now: &[Value]) {
    println!("\nBefore, now, and now over before (medians; a machine's own drift is in them, GANTRY_OTHER has none):");
    for row in now {
        let is_same = |other: &&Value| ["what", "who", "unit"].iter().all(|key| other[*key] == row[*key]);
        let Some(old) = before.iter().find(is_same) else {
            continue;
        };
        let (then, now) = (old["median"].as_f64(), row["median"].as_f64());
        if let (Some(then), Some(now), Some(what), Some(who)) = (then, now, row["what"].as_str(), row["who"].as_str()) {
            println!("{what:52} {who:12} {then:10.2} {now:10.2} {:8.3}", now / then);
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
