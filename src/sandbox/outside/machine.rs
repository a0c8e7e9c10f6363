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
    let known = |flag: &&str| CPUID_FLAGS.split_ascii_whitespace().any(|known| known == *flag);
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

/// The flags that stand for a bit of CPUID. The kernel's own, such as `pti`, say how this host is set up.
const CPUID_FLAGS: &str = "
    fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 pn clflush dts acpi mmx fxsr sse sse2 ss ht tm
    ia64 pbe syscall mp nx mmxext fxsr_opt pdpe1gb rdtscp lm 3dnowext 3dnow pni pclmulqdq dtes64 monitor ds_cpl vmx smx est
    tm2 ssse3 cid sdbg fma cx16 xtpr pdcm pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c
    rdrand hypervisor lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt
    lwp fma4 tce nodeid_msr tbm topoext perfctr_core perfctr_nb bpext ptsc perfctr_llc mwaitx fsgsbase tsc_adjust sgx bmi1
    hle avx2 smep bmi2 erms invpcid rtm cqm mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma clflushopt clwb intel_pt
    avx512pf avx512er avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec xgetbv1 xsaves avx_vnni avx512_bf16 clzero irperf
    xsaveerptr rdpru wbnoinvd arat avx512vbmi umip pku ospke waitpkg avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni
    avx512_bitalg tme avx512_vpopcntdq la57 rdpid cldemote movdiri movdir64b enqcmd sgx_lc fsrm avx512_4vnniw avx512_4fmaps
    avx512_vp2intersect md_clear serialize hybrid tsxldtrk pconfig arch_lbr ibt amx_bf16 avx512_fp16 amx_tile amx_int8 fzrm
    fsrs fsrc cmpccxadd amx_fp16 avx_ifma lam avx_vnni_int8 avx_ne_convert prefetchiti";

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
