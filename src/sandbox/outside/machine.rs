//! What a run is told of its machine: the files of `/proc` and `/sys` in which programs look for memory and processors.
//!
//! They say what the run may use, not what the machine has: a program that takes a share of the memory it sees, or a thread
//! for each processor, then takes a share of its own. Of the host they say what a workload can find out without them: what
//! the CPUID instruction, uname(2) and the clocks say. They are made once, before the run, and do not change: how busy the
//! machine or the run is they do not say.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{clock_gettime, ClockId};

use super::super::orders::MachineFile;
use super::super::resources::Resources;
use crate::policy::Confinement;
use crate::sys::clock;

/// Ticks of a second in `/proc`, USER_HZ; the same on every x86-64 kernel.
const TICKS: u64 = 100;
/// Bytes read of the host's `/proc/cpuinfo`: its first processor takes 2 KB, and each further one the kernel's time.
const FIRST_PROCESSOR: usize = 8 << 10;

/// What is said of the host.
#[derive(Debug)]
struct Host {
    /// The first processor's block of `/proc/cpuinfo`.
    processor: String,
    /// Release and version of the kernel, as uname(2) has them.
    kernel: (String, String),
    /// Seconds since 1970 at which it started.
    booted: u64,
    /// How long it has been up.
    up: Duration,
}

/// The files of a run under `confinement` on this machine.
pub(super) fn files(confinement: &Confinement) -> io::Result<Vec<MachineFile>> {
    Ok(files_of(confinement, &Host::look()?))
}

impl Host {
    fn look() -> io::Result<Self> {
        let mut first = [0; FIRST_PROCESSOR];
        // One read: the kernel answers it with whole processors, the first at least.
        let length = File::open("/proc/cpuinfo")?.read(&mut first)?;
        let first = String::from_utf8_lossy(first.get(..length).unwrap_or_default());
        let processor = first.split("\n\n").next().unwrap_or_default().to_owned();
        let uname = rustix::system::uname();
        let text = |field: &std::ffi::CStr| field.to_string_lossy().into_owned();
        let up = clock_gettime(ClockId::Boottime);
        let up = Duration::try_from(up).unwrap_or_default();
        let now = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            processor,
            kernel: (text(uname.release()), text(uname.version())),
            booted: now.saturating_sub(up).as_secs(),
            up,
        })
    }

    /// The value of `key` in the processor's block.
    fn get(&self, key: &str) -> Option<&str> {
        let mut lines = self.processor.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(name, value)| (name.trim_end() == key).then(|| value.trim()))
    }
}

fn files_of(confinement: &Confinement, host: &Host) -> Vec<MachineFile> {
    let processors = confinement.processors();
    let range = match processors {
        1 => "0\n".to_owned(),
        _ => format!("0-{}\n", processors - 1),
    };
    let memory = confinement.memory.0;
    let controllers = "cpu memory pids\n".to_owned();
    [
        ("proc/meminfo", meminfo(memory)),
        ("proc/cpuinfo", cpuinfo(processors, host)),
        ("proc/stat", stat(processors, host)),
        ("proc/uptime", uptime(processors, host)),
        ("proc/loadavg", "0.00 0.00 0.00 1/1 1\n".to_owned()),
        ("proc/version", version(host)),
        ("proc/vmstat", VMSTAT.to_owned()),
        (
            "proc/filesystems",
            "nodev\toverlay\nnodev\tproc\nnodev\ttmpfs\n".to_owned(),
        ),
        ("sys/devices/system/cpu/online", range.clone()),
        ("sys/devices/system/cpu/possible", range.clone()),
        ("sys/devices/system/cpu/present", range),
        ("sys/fs/cgroup/cgroup.controllers", controllers),
        ("sys/fs/cgroup/memory.max", format!("{memory}\n")),
        ("sys/fs/cgroup/memory.current", "0\n".to_owned()),
        ("sys/fs/cgroup/memory.swap.max", "0\n".to_owned()),
        (
            "sys/fs/cgroup/cpu.max",
            format!("{}\n", Resources::of(confinement).cpu_max()),
        ),
        ("sys/fs/cgroup/pids.max", format!("{}\n", confinement.pids)),
    ]
    .map(|(path, text)| MachineFile {
        path: path.to_owned(),
        text,
    })
    .into()
}

/// All memory of the run, and all of it free.
fn meminfo(bytes: u64) -> String {
    const ZERO: [&str; 24] = [
        "Buffers",
        "Cached",
        "SwapCached",
        "Active",
        "Inactive",
        "Active(anon)",
        "Inactive(anon)",
        "Active(file)",
        "Inactive(file)",
        "Unevictable",
        "Mlocked",
        "SwapTotal",
        "SwapFree",
        "Dirty",
        "Writeback",
        "AnonPages",
        "Mapped",
        "Shmem",
        "KReclaimable",
        "Slab",
        "SReclaimable",
        "SUnreclaim",
        "PageTables",
        "Committed_AS",
    ];
    let mut text = String::with_capacity(1024);
    let mut line = |name: &str, kilobytes: u64| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<16}{kilobytes:>8} kB", format!("{name}:"));
    };
    for name in ["MemTotal", "MemFree", "MemAvailable"] {
        line(name, bytes >> 10);
    }
    for name in ZERO {
        line(name, 0);
    }
    line("CommitLimit", bytes >> 10);
    text
}

/// Of one socket, with a core for each processor.
fn cpuinfo(processors: u32, host: &Host) -> String {
    let copied = |keys: &[&str]| -> String {
        let lines = keys
            .iter()
            .filter_map(|key| Some(format!("{key}\t: {}\n", host.get(key)?)));
        lines.collect()
    };
    let identity = copied(&["vendor_id", "cpu family", "model", "model name", "stepping"]);
    let geometry = copied(&["clflush size", "cache_alignment", "address sizes"]);
    let (cache, level) = (
        copied(&["cache size"]),
        copied(&["fpu", "fpu_exception", "cpuid level", "wp"]),
    );
    // Twice the frequency of the time stamp counter, which every program can read; that of the processor changes.
    let bogomips = host.get("bogomips").unwrap_or("0.00");
    let frequency = bogomips.parse::<f64>().unwrap_or_default() / 2.0;
    let known = |flag: &&str| CPUID_FLAGS.binary_search(flag).is_ok();
    let flags = host.get("flags").unwrap_or_default().split_ascii_whitespace();
    let flags = flags.filter(known).collect::<Vec<_>>().join(" ");
    let mut text = String::with_capacity(2048 * processors as usize);
    for number in 0..processors {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "processor\t: {number}\n{identity}cpu MHz\t\t: {frequency:.3}\n{cache}physical id\t: 0\nsiblings\t: {processors}\n\
             core id\t\t: {number}\ncpu cores\t: {processors}\napicid\t\t: {number}\ninitial apicid\t: {number}\n{level}\
             flags\t\t: {flags}\nbogomips\t: {bogomips}\n{geometry}\n"
        );
    }
    text
}

/// Processors that have been idle since the machine started.
fn stat(processors: u32, host: &Host) -> String {
    let idle = host.up.as_secs() * TICKS;
    let mut text = format!("cpu  0 0 0 {} 0 0 0 0 0 0\n", idle * u64::from(processors));
    for number in 0..processors {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "cpu{number} 0 0 0 {idle} 0 0 0 0 0 0");
    }
    text + &format!(
        "intr 0\nctxt 0\nbtime {}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        host.booted
    )
}

fn uptime(processors: u32, host: &Host) -> String {
    let up = host.up.as_secs();
    format!("{up}.00 {}.00\n", up * u64::from(processors))
}

fn version(host: &Host) -> String {
    let (release, version) = &host.kernel;
    format!("Linux version {release} (sandbox) {version}\n")
}

const VMSTAT: &str = "nr_free_pages 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\noom_kill 0\n";

/// The flags that stand for a bit of CPUID, sorted. The kernel's own, such as `pti`, say how this host is set up.
#[rustfmt::skip]
const CPUID_FLAGS: [&str; 182] = [
    "3dnow", "3dnowext", "3dnowprefetch", "abm", "acpi", "adx", "aes", "amx_bf16", "amx_fp16", "amx_int8", "amx_tile",
    "apic", "arat", "arch_lbr", "avx", "avx2", "avx512_4fmaps", "avx512_4vnniw", "avx512_bf16", "avx512_bitalg",
    "avx512_fp16", "avx512_vbmi2", "avx512_vnni", "avx512_vp2intersect", "avx512_vpopcntdq", "avx512bw", "avx512cd",
    "avx512dq", "avx512er", "avx512f", "avx512ifma", "avx512pf", "avx512vbmi", "avx512vl", "avx_ifma",
    "avx_ne_convert", "avx_vnni", "avx_vnni_int8", "bmi1", "bmi2", "bpext", "cid", "cldemote", "clflush", "clflushopt",
    "clwb", "clzero", "cmov", "cmp_legacy", "cmpccxadd", "cqm", "cr8_legacy", "cx16", "cx8", "dca", "de", "ds_cpl",
    "dtes64", "dts", "enqcmd", "erms", "est", "extapic", "f16c", "fma", "fma4", "fpu", "fsgsbase", "fsrc", "fsrm",
    "fsrs", "fxsr", "fxsr_opt", "fzrm", "gfni", "hle", "ht", "hybrid", "hypervisor", "ia64", "ibs", "ibt", "intel_pt",
    "invpcid", "irperf", "la57", "lahf_lm", "lam", "lm", "lwp", "mca", "mce", "md_clear", "misalignsse", "mmx",
    "mmxext", "monitor", "movbe", "movdir64b", "movdiri", "mp", "mpx", "msr", "mtrr", "mwaitx", "nodeid_msr", "nx",
    "ospke", "osvw", "pae", "pat", "pbe", "pcid", "pclmulqdq", "pconfig", "pdcm", "pdpe1gb", "perfctr_core",
    "perfctr_llc", "perfctr_nb", "pge", "pku", "pn", "pni", "popcnt", "prefetchiti", "pse", "pse36", "ptsc", "rdpid",
    "rdpru", "rdrand", "rdseed", "rdt_a", "rdtscp", "rtm", "sdbg", "sep", "serialize", "sgx", "sgx_lc", "sha_ni",
    "skinit", "smap", "smep", "smx", "ss", "sse", "sse2", "sse4_1", "sse4_2", "sse4a", "ssse3", "svm", "syscall",
    "tbm", "tce", "tm", "tm2", "tme", "topoext", "tsc", "tsc_adjust", "tsc_deadline_timer", "tsxldtrk", "umip", "vaes",
    "vme", "vmx", "vpclmulqdq", "waitpkg", "wbnoinvd", "wdt", "x2apic", "xgetbv1", "xop", "xsave", "xsavec",
    "xsaveerptr", "xsaveopt", "xsaves", "xtpr",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Bytes;

    fn of(memory: u64, cpus: f64) -> impl Fn(&str) -> String {
        let confinement = Confinement {
            memory: Bytes(memory),
            cpus,
            ..Confinement::default()
        };
        let host = Host {
            processor:
                "processor\t: 0\nmodel name\t: A @ 3.00GHz\nmicrocode\t: 0x1\nflags\t\t: fpu avx2 pti retpoline\n\
                        bugs\t\t: spectre_v1\nbogomips\t: 6000.00"
                    .to_owned(),
            kernel: ("6.1.0".to_owned(), "#1 SMP".to_owned()),
            booted: 1_700_000_000,
            up: Duration::from_millis(12_345),
        };
        let files = files_of(&confinement, &host);
        move |path| {
            let found = files.iter().find(|file| file.path == path);
            found.unwrap_or_else(|| panic!("no {path}")).text.clone()
        }
    }

    #[test]
    fn they_say_the_limits_of_the_run() {
        let file = of(100 << 20, 2.5);
        assert!(file("proc/meminfo").starts_with("MemTotal:         102400 kB\nMemFree:          102400 kB\n"));
        assert_eq!(file("proc/cpuinfo").matches("processor\t: ").count(), 3);
        assert_eq!(
            file("proc/stat").lines().filter(|line| line.starts_with("cpu")).count(),
            4
        );
        assert_eq!(file("sys/devices/system/cpu/online"), "0-2\n");
        assert_eq!(file("sys/fs/cgroup/memory.max"), "104857600\n");
        assert_eq!(file("sys/fs/cgroup/cpu.max"), "250000 100000\n");
        assert_eq!(of(1 << 20, 0.1)("sys/devices/system/cpu/possible"), "0\n");
    }

    #[test]
    fn of_the_processor_they_say_what_every_program_can_ask_it() {
        let text = of(1 << 20, 1.0)("proc/cpuinfo");
        assert!(
            text.contains("model name\t: A @ 3.00GHz\ncpu MHz\t\t: 3000.000\n"),
            "{text}"
        );
        assert!(text.contains("flags\t\t: fpu avx2\n"), "{text}");
        assert!(!text.contains("bugs") && !text.contains("microcode"), "{text}");
    }

    #[test]
    fn the_flags_are_sorted_as_a_search_wants_them() {
        assert!(CPUID_FLAGS.is_sorted());
    }

    #[test]
    fn a_machine_whose_kernel_says_little_has_files_all_the_same() {
        let host = Host {
            processor: String::new(),
            kernel: (String::new(), String::new()),
            booted: 0,
            up: Duration::ZERO,
        };
        let files = files_of(&Confinement::default(), &host);
        assert!(files.iter().all(|file| file.text.ends_with('\n')), "{files:?}");
    }
}
