use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::store::{ComingTaken, PartName, StoredPart};

const MB: u64 = 1 << 20;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Things by their names, and the parts that they need with the sizes of those.
#[derive(Default)]
struct Stock {
    inventory: Inventory,
    numbers: BTreeMap<String, usize>,
}

impl Stock {
    fn part(&mut self, name: &str, bytes: u64) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.inventory.parts.push(StoredPart {
            what: PartName::Blob(Digest::of(name.as_bytes())),
            bytes,
            fetched: bytes / 3,
        });
        self.inventory.total += bytes;
        let number = self.inventory.parts.len() - 1;
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// An image that a registry has, used once at `used`.
    fn image(&mut self, name: &str, used: u64, parts: &[(&str, u64)]) -> &mut StoredImage {
        let parts = parts.iter().map(|(name, bytes)| self.part(name, *bytes)).collect();
        self.inventory.images.push(StoredImage {
            digest: Digest::of(name.as_bytes()),
            names: vec![name.parse().unwrap()],
            used: Some(at(used)),
            uses: 1,
            is_pinned: false,
            is_in_use: false,
            origins: BTreeSet::from(["a.example/team".to_owned()]),
            parts,
        });
        self.inventory.images.last_mut().unwrap()
    }

    fn remembered(&mut self, file: &str, used: u64, parts: &[(&str, u64)]) {
        let parts = parts.iter().map(|(name, bytes)| self.part(name, *bytes)).collect();
        self.inventory.remembered.push(Remembered {
            file: file.into(),
            used: Some(at(used)),
            bytes: 0,
            parts,
        });
    }
}

fn wanted(max_bytes: Option<u64>, max_images: Option<u64>) -> RoomWanted<'static> {
    RoomWanted {
        limits: CacheLimits {
            max_bytes,
            max_images,
            low_water: 100,
        },
        coming_bytes: 0,
        coming_images: 0,
        disk_lacks: 0,
        only_here: OnlyHere::Last,
        may_forget: true,
        tools: &["uv-2"],
        spared: None,
    }
}

fn names(plan: &EvictionPlan) -> Vec<&str> {
    plan.items.iter().map(|item| item.name.as_str()).collect()
}

#[test]
fn nothing_goes_while_there_is_room() {
    let mut stock = Stock::default();
    stock.image("a:1", 0, &[("a", 10 * MB)]);
    let found = plan(&stock.inventory, &wanted(Some(10 * MB), Some(1)), at(100));
    assert!(found.is_enough && found.items.is_empty() && found.kept.is_empty());
    let coming = RoomWanted {
        coming_images: 1,
        ..wanted(None, Some(1))
    };
    assert_eq!(names(&plan(&stock.inventory, &coming, at(100))), ["a:1"]);
}

#[test]
fn of_equal_images_the_least_recently_used_goes_first() {
    let mut stock = Stock::default();
    for (name, used) in [("c:1", 30), ("a:1", 10), ("b:1", 20), ("d:1", 40)] {
        stock.image(name, used, &[(name, 10 * MB)]);
    }
    let found = plan(&stock.inventory, &wanted(Some(15 * MB), None), at(100));
    assert_eq!(names(&found), ["a:1", "b:1", "c:1"]);
    assert_eq!((found.bytes_after, found.images_after), (10 * MB, 1));
    assert!(found.is_enough);
}

#[test]
fn an_image_frees_only_what_no_other_one_needs() {
    let mut stock = Stock::default();
    stock.image("a:1", 10, &[("base", 100 * MB), ("a", MB)]);
    stock.image("b:1", 20, &[("base", 100 * MB), ("b", 2 * MB)]);
    let found = plan(&stock.inventory, &wanted(Some(0), None), at(100));
    let frees: Vec<u64> = found.items.iter().map(|item| item.frees).collect();
    assert_eq!(names(&found), ["b:1", "a:1"], "twice as much after nearly as long");
    // The last one that needs it frees it.
    assert_eq!(frees, [2 * MB, 101 * MB]);
    assert_eq!(found.items[1].fetches, 100 * MB / 3 + MB / 3);
    assert_eq!(found.bytes_after, 0);
}

#[test]
fn what_is_used_often_stays_and_only_sixteen_times_count() {
    let mut stock = Stock::default();
    stock.image("often:1", 10, &[("a", 10 * MB)]).uses = 8;
    stock.image("once:1", 80, &[("b", 10 * MB)]);
    // Unused for 90 s / 8 against 20 s.
    let found = plan(&stock.inventory, &wanted(Some(10 * MB), None), at(100));
    assert_eq!(names(&found), ["once:1"]);
    let found = plan(&stock.inventory, &wanted(Some(10 * MB), None), at(10_000));
    assert_eq!(names(&found), ["once:1"]);
}

#[test]
fn what_is_pinned_or_in_use_never_goes_and_the_plan_says_so() {
    let mut stock = Stock::default();
    stock.image("pinned:1", 10, &[("a", 10 * MB)]).is_pinned = true;
    stock.image("used:1", 20, &[("b", 10 * MB)]).is_in_use = true;
    stock.image("free:1", 30, &[("c", 10 * MB)]);
    let found = plan(&stock.inventory, &wanted(Some(0), Some(1)), at(100));
    assert_eq!(names(&found), ["free:1"]);
    assert!(!found.is_enough);
    let kept: Vec<_> = found
        .kept
        .iter()
        .map(|kept| (kept.name.as_str(), kept.reason))
        .collect();
    assert_eq!(kept, [("pinned:1", "pinned"), ("used:1", "in use")]);
}

#[test]
fn what_no_registry_has_goes_last_or_never() {
    let mut stock = Stock::default();
    stock.image("built:1", 10, &[("a", 100 * MB)]).origins.clear();
    stock.image("pulled:1", 99, &[("b", MB)]);
    stock.remembered("memo/wheel/0.json", 98, &[("c", 20 * MB)]);
    let all = wanted(Some(0), None);
    let found = plan(&stock.inventory, &all, at(100));
    assert_eq!(names(&found), ["memo/wheel/0.json", "pulled:1", "built:1"]);
    assert!(
        found.items[2].reason.contains("no registry"),
        "{}",
        found.items[2].reason
    );
    let never = RoomWanted {
        only_here: OnlyHere::Stay,
        ..all
    };
    assert_eq!(
        names(&plan(&stock.inventory, &never, at(100))),
        ["memo/wheel/0.json", "pulled:1"]
    );
    let building = RoomWanted {
        may_forget: false,
        ..never
    };
    assert_eq!(names(&plan(&stock.inventory, &building, at(100))), ["pulled:1"]);
}

#[test]
fn what_a_collection_would_take_goes_before_any_image() {
    let mut stock = Stock::default();
    stock.image("pulled:1", 10, &[("base", 100 * MB), ("a", MB)]);
    // Nobody keeps it, and it was used a moment ago.
    let nameless = stock.image("left:1", 90, &[("base", 100 * MB), ("b", MB)]).clone();
    stock.inventory.images.pop();
    stock.inventory.nameless.push(nameless);
    let file = |file: &str, used: u64, bytes: u64| Remembered {
        file: file.into(),
        used: Some(at(used)),
        bytes,
        parts: Vec::new(),
    };
    let Inventory { loose, tools, .. } = &mut stock.inventory;
    loose.push(file("blobs/sha256/0", 80, 2 * MB));
    tools.extend(
        [("uv-1", MB), ("uv-2", MB), ("uv-cache", 5 * MB)]
            .map(|(name, bytes)| file(&format!("tools/{name}"), 50, bytes)),
    );
    stock.inventory.total += 9 * MB;
    let below = |megabytes: u64| wanted(Some((111 - megabytes) * MB), None);
    let found = |wanted: &RoomWanted<'_>| {
        let found = plan(&stock.inventory, wanted, at(100));
        let named: Vec<(&str, u64)> = found.items.iter().map(|item| (item.kind, item.frees / MB)).collect();
        assert_eq!(found.is_enough, found.bytes_after <= wanted.limits.max_bytes.unwrap());
        named
            .into_iter()
            .map(|(kind, mb)| format!("{kind} {mb}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found(&below(1)),
        ["garbage 1"],
        "the program of another version is the oldest"
    );
    assert_eq!(
        found(&below(4)),
        ["garbage 1", "garbage 2", "garbage 1"],
        "of the image its own part alone"
    );
    // Then what is there to be used, by its rank.
    assert_eq!(
        found(&below(9))[3..],
        ["image 101"],
        "with what the other one had needed as well"
    );
    assert_eq!(found(&below(110))[3..], ["image 101", "remembered 5"]);
    let building = RoomWanted {
        may_forget: false,
        ..below(4)
    };
    assert_eq!(
        found(&building),
        ["garbage 1", "image 101"],
        "what nothing leads to may be what a build has just made"
    );
}

#[test]
fn an_eviction_goes_on_to_the_low_water_mark_of_the_limit_that_is_exceeded() {
    let mut stock = Stock::default();
    let images: Vec<String> = (0..100).map(|number| format!("i:{number}")).collect();
    for (number, name) in images.iter().enumerate() {
        stock.image(name, number as u64, &[(name, MB)]);
    }
    let mut low = wanted(Some(99 * MB), Some(1000));
    low.limits.low_water = 90;
    assert_eq!(plan(&stock.inventory, &low, at(1000)).images_after, 89);
    let mut low = wanted(Some(1000 * MB), Some(99));
    low.limits.low_water = 50;
    // Half an image is a whole one that stays.
    assert_eq!(plan(&stock.inventory, &low, at(1000)).images_after, 50);
    // Room on the disk is no limit, and has no mark.
    let full = RoomWanted {
        disk_lacks: 3 * MB,
        ..wanted(None, None)
    };
    assert_eq!(plan(&stock.inventory, &full, at(1000)).images_after, 97);
}

/// A generator that gives the same numbers on every machine (Vigna, "splitmix64").
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A place in `weights`, which add up to `sum`.
    fn weighted(&mut self, weights: &[f64], sum: f64) -> usize {
        let mut left = (self.next() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        for (place, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return place;
            }
        }
        weights.len() - 1
    }
}

/// Packages as functions ask for them, the most popular first: their layers in MB.
const PACKAGES: [(&str, u64); 26] = [
    ("numpy", 62),
    ("scipy", 105),
    ("pandas", 68),
    ("matplotlib", 38),
    ("sklearn", 45),
    ("pillow", 18),
    ("sympy", 35),
    ("networkx", 9),
    ("h5py", 22),
    ("xarray", 9),
    ("numba", 95),
    ("llvmlite", 120),
    ("pyarrow", 130),
    ("polars", 95),
    ("opencv", 110),
    ("gmsh", 180),
    ("plotly", 60),
    ("statsmodels", 40),
    ("torch", 700),
    ("requests", 2),
    ("pyyaml", 2),
    ("tqdm", 1),
    ("vtk", 240),
    ("duckdb", 60),
    ("shapely", 12),
    ("casadi", 150),
];
const FUNCTIONS: usize = 200;
const RUNS: usize = 5000;

/// Functions that share layers, and which is run when.
struct Workload {
    /// The layers of each function's image.
    images: Vec<Vec<usize>>,
    layers: Vec<u64>,
    runs: Vec<usize>,
}

fn workload(seed: u64) -> Workload {
    let mut numbers = Numbers(seed);
    let popular: Vec<f64> = (0..PACKAGES.len()).map(|rank| ((rank + 1) as f64).powf(-0.8)).collect();
    let sum: f64 = popular.iter().sum();
    let images = (0..FUNCTIONS).map(|function| {
        let mut layers = BTreeMap::from([("base".to_owned(), 95 * MB)]);
        for _ in 0..[0, 1, 1, 2, 2, 3, 3, 4, 5][numbers.below(9) as usize] {
            let place = numbers.weighted(&popular, sum);
            // Most take the version that is current.
            let version = if numbers.below(10) < 7 { 0 } else { 1 + numbers.below(3) };
            let sized = |(name, size): (&str, u64)| (format!("{name} {version}"), size * MB * (20 + version) / 20);
            layers.extend([sized(PACKAGES[place])]);
            if place < 14 {
                layers.extend([sized(PACKAGES[0])]);
            }
        }
        layers.insert(format!("code {function}"), 20_000 + numbers.below(4 * MB));
        if numbers.below(4) == 0 {
            layers.insert(format!("data {function}"), 5 * MB + numbers.below(75 * MB));
        }
        layers
    });
    let images: Vec<BTreeMap<String, u64>> = images.collect();
    let all: BTreeMap<&String, u64> = images.iter().flatten().map(|(name, size)| (name, *size)).collect();
    let place = |name: &String| all.keys().position(|layer| *layer == name).unwrap();
    // Which function is how popular has nothing to do with what it needs.
    let mut order: Vec<usize> = (0..FUNCTIONS).collect();
    for place in (1..FUNCTIONS).rev() {
        order.swap(place, numbers.below(place as u64 + 1) as usize);
    }
    let zipf: Vec<f64> = (0..FUNCTIONS).map(|rank| 1.0 / (rank + 1) as f64).collect();
    let sum: f64 = zipf.iter().sum();
    let runs = (0..RUNS).map(|_| order[numbers.weighted(&zipf, sum)]).collect();
    Workload {
        images: images.iter().map(|layers| layers.keys().map(place).collect()).collect(),
        layers: all.into_values().collect(),
        runs,
    }
}

/// Who chooses what goes.
#[derive(Clone, Copy, PartialEq)]
enum Chooser {
    Ours,
    /// The least recently used image, until the sizes of the images, each counted by itself, are within the limit.
    LruByImage,
    /// The least recently used image, until the bytes on the disk are.
    LruOfSharedLayers,
}

impl Workload {
    fn size(&self, function: usize) -> u64 {
        self.images[function].iter().map(|layer| self.layers[*layer]).sum()
    }

    /// Hits of the runs, and bytes that were fetched, in a cache of `most` bytes.
    fn replay(&self, chooser: Chooser, most: u64) -> (usize, u64) {
        let (mut hits, mut fetched, mut on_disk) = (0, 0, 0);
        let mut cached: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        let mut needed = vec![0_usize; self.layers.len()];
        for (now, &function) in (1_u64..).zip(&self.runs) {
            if let Some((used, uses)) = cached.get_mut(&function) {
                (*used, *uses) = (now, (*uses + 1).min(16));
                hits += 1;
                continue;
            }
            loop {
                let missing = self.images[function].iter().filter(|layer| needed[**layer] == 0);
                let coming: u64 = missing.map(|layer| self.layers[*layer]).sum();
                let oldest = || {
                    cached
                        .iter()
                        .min_by_key(|(_, (used, _))| *used)
                        .map(|(function, _)| *function)
                };
                let sizes = || cached.keys().map(|function| self.size(*function)).sum::<u64>() + self.size(function);
                let goes: Vec<usize> = match chooser {
                    Chooser::Ours if on_disk + coming <= most => Vec::new(),
                    Chooser::Ours => self.choose(&cached, on_disk, coming, most, now),
                    Chooser::LruByImage if sizes() <= most => Vec::new(),
                    Chooser::LruOfSharedLayers if on_disk + coming <= most => Vec::new(),
                    Chooser::LruByImage | Chooser::LruOfSharedLayers => oldest().into_iter().collect(),
                };
                if goes.is_empty() {
                    (fetched, on_disk) = (fetched + coming, on_disk + coming);
                    break;
                }
                for function in goes {
                    cached.remove(&function);
                    for layer in &self.images[function] {
                        needed[*layer] -= 1;
                        on_disk -= if needed[*layer] == 0 { self.layers[*layer] } else { 0 };
                    }
                }
            }
            self.images[function].iter().for_each(|layer| needed[*layer] += 1);
            cached.insert(function, (now, 1));
        }
        (hits, fetched)
    }

    fn choose(
        &self,
        cached: &BTreeMap<usize, (u64, u64)>,
        on_disk: u64,
        coming: u64,
        most: u64,
        now: u64,
    ) -> Vec<usize> {
        let mut stock = Stock::default();
        for (number, bytes) in self.layers.iter().enumerate() {
            stock.part(&number.to_string(), *bytes);
        }
        for (function, (used, uses)) in cached {
            let image = stock.image(&format!("f:{function}"), *used, &[]);
            image.uses = *uses;
            image.parts.clone_from(&self.images[*function]);
        }
        stock.inventory.total = on_disk;
        let wanted = RoomWanted {
            coming_bytes: coming,
            coming_images: 1,
            ..wanted(Some(most), None)
        };
        let found = plan(&stock.inventory, &wanted, at(now));
        found.items.iter().map(|item| item.name[2..].parse().unwrap()).collect()
    }
}

/// The acceptance of the policy; docs/decisions.md has the numbers, which this prints with `--nocapture`.
#[test]
fn a_popular_function_is_there_more_often_and_less_is_fetched_than_by_least_recent_use() {
    let mut fetched_of_ours = 0.0;
    for seed in [1, 2, 3] {
        let workload = workload(seed);
        let needed: u64 = workload.layers.iter().sum();
        let most = needed * 2 / 5;
        let [ours, by_image, of_layers] = [Chooser::Ours, Chooser::LruByImage, Chooser::LruOfSharedLayers]
            .map(|chooser| workload.replay(chooser, most));
        let rate = |(hits, _): (usize, u64)| hits as f64 / RUNS as f64;
        let ratio = |other: (usize, u64)| ours.1 as f64 / other.1 as f64;
        eprintln!(
            "seed {seed}, {} MB of {}: hit rate {:.3} (LRU by image {:.3}, of shared layers {:.3}), bytes fetched {:.3} of LRU by image, {:.3} of shared layers",
            most / MB,
            needed / MB,
            rate(ours),
            rate(by_image),
            rate(of_layers),
            ratio(by_image),
            ratio(of_layers)
        );
        assert!(ours.0 >= by_image.0 && ours.0 >= of_layers.0);
        assert!(ratio(by_image) <= 0.7, "{}", ratio(by_image));
        fetched_of_ours += ratio(of_layers);
    }
    // Against one that shares layers as well, less is to be gained.
    assert!(fetched_of_ours / 3.0 <= 1.0, "{}", fetched_of_ours / 3.0);
}

#[test]
fn a_plan_of_a_thousand_images_takes_no_time_that_anybody_notices() {
    let mut stock = Stock::default();
    let images: Vec<String> = (0..1000).map(|number| format!("i:{number}")).collect();
    for (number, name) in images.iter().enumerate() {
        let group = format!("g{}", number % 50);
        stock.image(
            name,
            number as u64,
            &[("base", 100 * MB), (&group, 20 * MB), (name, MB)],
        );
    }
    // All of them go: no plan is larger.
    let found = plan(&stock.inventory, &wanted(Some(0), None), at(10_000));
    assert_eq!((found.items.len(), found.bytes_after), (1000, 0));
}

#[test]
fn what_is_on_its_way_goes_before_an_image_that_no_registry_has() {
    let mut stock = Stock::default();
    stock.image("own:1", 0, &[("own", 10 * MB)]).origins.clear();
    stock.image("own:2", 10, &[("own2", 10 * MB)]).origins.clear();
    stock.image("coming:1", 20, &[("coming", 5 * MB)]).is_in_use = true;
    stock.inventory.coming = ComingTaken {
        bytes: 5 * MB,
        images: 1,
    };
    for wanted in [wanted(Some(20 * MB), None), wanted(None, Some(2))] {
        let found = plan(&stock.inventory, &wanted, at(100));
        assert!(!found.is_enough && found.items.is_empty(), "{found:?}");
    }
    // Without it, too, the store would be over its limit.
    for wanted in [wanted(Some(19 * MB), None), wanted(None, Some(1))] {
        let found = plan(&stock.inventory, &wanted, at(100));
        assert_eq!(names(&found), ["own:1"], "{found:?}");
    }
    // Garbage that stays while a build is at work goes after it.
    let loose = |bytes| Remembered {
        file: "blobs/sha256/loose".into(),
        used: None,
        bytes,
        parts: Vec::new(),
    };
    stock.inventory.loose.push(loose(MB));
    for (may_forget, goes) in [(false, [""; 0].as_slice()), (true, &["blobs/sha256/loose"])] {
        let wanted = RoomWanted {
            may_forget,
            ..wanted(Some(19 * MB), None)
        };
        assert_eq!(names(&plan(&stock.inventory, &wanted, at(100))), goes);
    }
    stock.inventory.loose.clear();
    // What the disk lacks is not there when others have come.
    let lacks = RoomWanted {
        disk_lacks: 3 * MB,
        ..wanted(None, None)
    };
    assert_eq!(names(&plan(&stock.inventory, &lacks, at(100))), ["own:1"]);
}
