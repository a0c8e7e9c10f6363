//! Every attack with its two answers, `NAME: INSIDE, SIDE OUTSIDE;`: what the sandbox answers, and what the same code is
//! answered on the host by the same kernel (`|` between answers of kernels that are built differently).
//!
//! Each is a test of its own: `attacks::GROUP::NAME`.

use crate::attacks::harness::Row;

macro_rules! group {
    ($group:ident: $($name:ident: $inside:literal, $side:ident $outside:literal;)*) => {
        mod $group {
            use crate::attacks::harness::{check, check_complete, Row, Side};

            pub const ROWS: &[Row] = &[
                $(Row { name: stringify!($name), inside: $inside, twin: Side::$side, outside: $outside },)*
            ];

            #[test]
            fn every_attack_has_a_row() {
                check_complete(stringify!($group), ROWS);
            }

            $(#[test]
            fn $name() {
                let row = ROWS.iter().find(|row| row.name == stringify!($name)).unwrap();
                check(stringify!($group), row);
            })*
        }
    };
}

/// Every group by its name.
pub const GROUPS: &[(&str, &[Row])] = &[
    ("ids", ids::ROWS),
    ("namespaces", namespaces::ROWS),
    ("mounts", mounts::ROWS),
    ("devices", devices::ROWS),
    ("syscalls", syscalls::ROWS),
    ("sockets", sockets::ROWS),
    ("proc", proc::ROWS),
    ("machine", machine::ROWS),
    ("leaks", leaks::ROWS),
    ("files", files::ROWS),
    ("bombs", bombs::ROWS),
    ("terminal", terminal::ROWS),
];

group! { ids:
    // Becoming root needs a root to be: the twins that are refused to any user run as root of a namespace. Unmapped ids
    // are EINVAL before anyone asks for a capability.
    setuid_root: "EPERM", Root "ok";
    setgid_root: "EPERM", Root "ok";
    setreuid_root: "EPERM", Root "ok";
    setregid_root: "EPERM", Root "ok";
    setresuid_root: "EPERM", Root "ok";
    setresgid_root: "EPERM", Root "ok";
    setfsuid_root: "EPERM", Host "ok";
    setfsgid_root: "EPERM", Host "ok";
    setgroups_none: "EPERM", Ids "ok";
    // The bits can be set, as tar and cp -a do with what they copy; what they would be good for is out of reach.
    set_user_id_program: "EACCES", Ids "the owner's";
    openat2_set_uid: "ENOSYS", Host "ok";
    set_id_bits_honoured: "nowhere", Host "somewhere";
    set_id_bits_of_a_file_of_the_image: "0o0", Host "0o6000";
    chown_root: "EINVAL", Root "ok";
    file_capability: "EOPNOTSUPP", Root "ok";
    capability_sets: "empty", Host "something";
    bounding_set: "empty", Host "some";
    capset_sys_admin: "EPERM", Root "ok";
    ambient_raise: "EPERM", Root "ok";
    securebits_clear: "EPERM", Root "ok";
    securebits_locked: "0xef", Host "0x0";
    keep_capabilities: "EPERM", Host "ok";
    no_new_privs: "1", Host "0";
}

group! { namespaces:
    // Every kind, by every call. setns into the own user namespace is EINVAL for everyone; what counts is that the kernel
    // was asked.
    unshare_user: "EPERM", Host "ok";
    unshare_mount: "EPERM", Root "ok";
    unshare_pid: "EPERM", Root "ok";
    unshare_net: "EPERM", Root "ok";
    unshare_ipc: "EPERM", Root "ok";
    unshare_uts: "EPERM", Root "ok";
    unshare_cgroup: "EPERM", Root "ok";
    unshare_time: "EPERM", Root "ok";
    clone_user: "EPERM", Host "ok";
    clone_mount: "EPERM", Root "ok";
    clone_pid: "EPERM", Root "ok";
    clone_net: "EPERM", Root "ok";
    clone_ipc: "EPERM", Root "ok";
    clone_uts: "EPERM", Root "ok";
    clone_cgroup: "EPERM", Root "ok";
    clone_time_bit: "EPERM", Host "ok";
    clone_high_bits: "EPERM", Host "ok";
    clone3_plain: "ENOSYS", Host "ok";
    clone3_user: "ENOSYS", Host "ok";
    clone3_time: "ENOSYS", Host "ok";
    setns_net: "EPERM", Root "ok";
    setns_uts: "EPERM", Root "ok";
    setns_ipc: "EPERM", Root "ok";
    setns_user: "EPERM", Host "EINVAL";
    setns_by_pidfd: "EPERM", Root "ok";
    write_uid_map: "EACCES", Host "ok";
    write_gid_map: "EACCES", Host "ok";
    write_setgroups: "EACCES", Root "ok";
    more_user_namespaces: "ENOENT", Root "ok";
}

group! { mounts:
    // The old interface is EPERM, the new one ENOSYS, as its callers expect of an older kernel. Where the twin has an errno, it
    // is one that only comes after the capability was found.
    mount_tmpfs: "EPERM", Root "ok";
    mount_bind: "EPERM", Root "ok";
    mount_proc: "EPERM", Root "ok";
    mount_move: "EPERM", Root "ok";
    remount_writable: "EPERM", Root "ok";
    remount_executable: "EPERM", Root "ok";
    mount_shared: "EPERM", Root "ok";
    umount: "EPERM", Root "ok";
    umount_proc_detached: "EPERM", Root "ok";
    pivot_root: "EPERM", Root "ENOENT";
    chroot: "EPERM", Root "ok";
    fsopen: "ENOSYS", Root "ok";
    fsconfig: "ENOSYS", Host "EINVAL";
    fsmount: "ENOSYS", Host "EPERM";
    fspick: "ENOSYS", Host "EPERM";
    move_mount: "ENOSYS", Host "EPERM";
    open_tree: "ENOSYS", Host "EPERM";
    mount_setattr: "ENOSYS", Host "EINVAL";
    open_tree_attr: "ENOSYS", Host "ENOENT";
    statmount: "ENOSYS", Host "EFAULT";
    listmount: "ENOSYS", Host "EFAULT";
    quotactl_fd: "ENOSYS", Host "EBADF";
    mount_table: "silent", Root "names the store";
}

group! { devices:
    // A whiteout (0:0) is the one device everyone may make outside; block devices are tried with a bad path, for EFAULT
    // comes only from a kernel that was asked.
    mknod_char: "EPERM", Host "ok";
    mknodat_char: "EPERM", Host "ok";
    mknod_block: "EPERM", Host "EFAULT";
    mknodat_block: "EPERM", Host "EFAULT";
    listing: "minimal", Host "more";
    open_kmsg: "ENOENT", Host "EPERM";
    open_tty: "ENOENT", Host "ENXIO";
    open_ptmx: "ENOENT", Host "ok";
    open_fuse: "ENOENT", Host "EACCES";
    open_net_tun: "ENOENT", Host "EACCES";
    make_in_dev: "EROFS", Host "EACCES";
    touch_null: "EROFS", Host "ok";
    ioctl_on_device: "EACCES", Host "EINVAL";
}

group! { syscalls:
    // Each refused group. Twins with an errno: it can only come after the call was let in. Some kernels are built without
    // iopl or x32 and say ENOSYS; none says SIGSYS. Modules and kexec are EPERM for every user, so no row could tell the
    // filter from the kernel: the golden table holds them.
    add_key: "EPERM", Host "ok";
    request_key: "EPERM", Host "ENOKEY";
    keyctl: "EPERM", Host "ok";
    bpf: "EPERM", Host "E2BIG";
    userfaultfd: "EPERM", Host "ok";
    perf_event_open: "EPERM", Host "EINVAL";
    ptrace_traceme: "EPERM", Host "ok";
    ptrace_seize_init: "EPERM", Host "ok";
    process_vm_readv: "EPERM", Host "ok";
    process_vm_writev: "EPERM", Host "ok";
    process_madvise: "ENOSYS", Host "EBADF";
    process_mrelease: "EPERM", Host "EBADF";
    kcmp: "EPERM", Host "ok";
    pidfd_getfd: "ENOSYS", Host "ok";
    io_uring_setup: "ENOSYS", Host "ok";
    io_uring_enter: "ENOSYS", Host "EBADF";
    io_uring_register: "ENOSYS", Host "EINVAL";
    io_setup: "ENOSYS", Host "ok";
    splice: "EINVAL", Host "ok";
    tee: "EINVAL", Host "ok";
    sendfile: "EINVAL", Host "ok";
    file_lease: "EPERM", Host "ok";
    fsync_of_nothing: "ok", Host "EBADF";
    fdatasync_of_nothing: "ok", Host "EBADF";
    sync_file_range_of_nothing: "ok", Host "EBADF";
    syncfs_of_nothing: "ok", Host "EBADF";
    msync_of_nothing: "ok", Host "ENOMEM";
    vmsplice: "EINVAL", Host "ok";
    name_to_handle_at: "EPERM", Host "EFAULT";
    open_by_handle_at: "EPERM", Host "EFAULT";
    fanotify_init: "EPERM", Host "ok";
    memfd_create: "ENOSYS", Host "ok";
    memfd_secret: "ENOSYS", Host "EINVAL";
    reboot: "EPERM", Root "EINVAL";
    swapon: "EPERM", Host "EINVAL";
    quotactl: "EPERM", Host "EINVAL";
    clock_settime: "EPERM", Host "EFAULT";
    settimeofday: "EPERM", Host "EFAULT";
    adjtimex: "EPERM", Host "ok";
    clock_adjtime: "EPERM", Host "ok";
    sethostname: "EPERM", Root "ok";
    setdomainname: "EPERM", Root "ok";
    iopl: "EPERM", Host "ok|ENOSYS";
    ioperm: "EPERM", Host "EINVAL|ENOSYS";
    modify_ldt: "EPERM", Host "ok";
    personality_no_randomisation: "EPERM", Host "ok";
    mbind: "ENOSYS", Host "EINVAL";
    get_mempolicy: "ENOSYS", Host "ok";
    set_mempolicy: "ENOSYS", Host "ok";
    set_mempolicy_home_node: "ENOSYS", Host "EINVAL";
    move_pages: "ENOSYS", Host "EINVAL";
    migrate_pages: "ENOSYS", Host "EINVAL";
    seccomp_query: "ENOSYS", Host "ok";
    sched_setscheduler_real_time: "EPERM", Host "EINVAL";
    sched_setscheduler_deadline: "EPERM", Host "EINVAL";
    sched_setscheduler_of_init: "EPERM", Host "ok";
    sched_setparam_of_init: "EPERM", Host "ok";
    sched_setattr: "ENOSYS", Host "ok";
    ioprio_set_first: "EPERM", Host "ok";
    prlimit_of_init: "EPERM", Host "ok";
    prctl_set_mm: "EPERM", Host "EINVAL";
    prctl_set_ptracer: "EPERM", Host "EINVAL";
    prctl_set_seccomp: "EPERM", Host "EINVAL";
    prctl_syscall_user_dispatch: "EPERM", Host "ok";
    prctl_name_of_a_mapping: "EPERM", Host "ok|EINVAL";
    prctl_with_high_bits: "EPERM", Host "EINVAL";
    remap_file_pages: "EPERM", Host "EINVAL";
    sysv_shared_memory: "ENOSYS", Host "ok";
    sysv_semaphores: "ENOSYS", Host "ok";
    sysv_messages: "ENOSYS", Host "ok";
    posix_message_queue: "ENOSYS", Host "ENOENT";
    setxattr: "EOPNOTSUPP", Host "ok";
    fsetxattr: "EOPNOTSUPP", Host "ok";
    setxattr_overlay: "EOPNOTSUPP", Host "ok";
    lsetxattr: "EOPNOTSUPP", Host "ok";
    removexattr: "EOPNOTSUPP", Host "ENODATA";
    lremovexattr: "EOPNOTSUPP", Host "ENODATA";
    fremovexattr: "EOPNOTSUPP", Host "ENODATA";
    setxattrat: "ENOSYS", Host "EINVAL";
    removexattrat: "ENOSYS", Host "EFAULT";
    file_setattr: "ENOSYS", Host "EINVAL";
    mseal: "ENOSYS", Host "EINVAL";
    lsm_get_self_attr: "ENOSYS", Host "EINVAL";
    lsm_set_self_attr: "ENOSYS", Host "EINVAL";
    lsm_list_modules: "ENOSYS", Host "EFAULT";
    cachestat: "ENOSYS", Host "EBADF";
    x32_getpid: "SIGSYS", Host "ENOSYS|ok";
    x32_execve: "SIGSYS", Host "ENOSYS|ok";
    int80_getpid: "SIGSYS", Host "ok";
    int80_ptrace: "SIGSYS", Host "ok";
}

group! { sockets:
    // Families this kernel may be built without are tried with a type that no family has: EINVAL comes before the family
    // is looked up, and after the filter.
    inet_stream: "EAFNOSUPPORT", Host "ok";
    inet_datagram: "EAFNOSUPPORT", Host "ok";
    inet6_stream: "EAFNOSUPPORT", Host "EINVAL";
    netlink_route: "EAFNOSUPPORT", Host "ok";
    packet_raw: "EAFNOSUPPORT", Root "ok";
    inet_raw: "EAFNOSUPPORT", Root "ok";
    alg: "EAFNOSUPPORT", Host "EINVAL";
    vsock: "EAFNOSUPPORT", Host "EINVAL";
    bluetooth: "EAFNOSUPPORT", Host "EINVAL";
    xdp: "EAFNOSUPPORT", Host "EINVAL";
    rxrpc: "EAFNOSUPPORT", Host "EINVAL";
    every_family_but_unix: "EAFNOSUPPORT", Host "EINVAL";
    family_with_high_bits: "EAFNOSUPPORT", Host "ok";
    socketpair_inet: "EAFNOSUPPORT", Host "EFAULT";
    socketpair_netlink: "EAFNOSUPPORT", Host "EFAULT";
    socketpair_tipc: "EAFNOSUPPORT", Host "EFAULT";
    out_of_band_sendto: "EPERM", Host "ok|EOPNOTSUPP";
    out_of_band_recvfrom: "EPERM", Host "EINVAL|EOPNOTSUPP";
    out_of_band_sendmsg: "EPERM", Host "ok|EOPNOTSUPP";
    out_of_band_recvmsg: "EPERM", Host "EINVAL|EOPNOTSUPP";
    out_of_band_sendmmsg: "EPERM", Host "ok|EOPNOTSUPP";
    out_of_band_recvmmsg: "EPERM", Host "EINVAL|EOPNOTSUPP";
    out_of_band_high_bits: "EPERM", Host "ok|EOPNOTSUPP";
    attach_filter: "EPERM", Host "ok";
    attach_bpf: "EPERM", Host "EINVAL|EBADF";
    attach_reuseport: "EPERM", Host "EINVAL";
    abstract_socket_of_the_host: "ECONNREFUSED", Host "ok";
    path_socket_of_the_host: "ENOENT", Host "ok";
    abstract_names_listed: "unseen", Host "seen";
    interfaces: "lo alone", Host "others";
}

group! { proc:
    // The init is hidden (ENOENT) from those who may not trace it; the knobs of oneself are closed by Landlock (EACCES), for
    // /proc is mounted writable. Outside, a process of the test stands in for the init.
    init_environ: "ENOENT", Host "ok";
    init_memory: "ENOENT", Host "ok";
    init_maps: "ENOENT", Host "ok";
    init_descriptors: "ENOENT", Host "ok";
    init_executable: "ENOENT", Host "ok";
    init_root: "ENOENT", Host "ok";
    init_directory: "ENOENT", Host "ok";
    init_command_line: "ENOENT", Host "ok";
    init_map_files: "ENOENT", Host "ok";
    init_namespaces: "ENOENT", Host "ok";
    init_stack: "ENOENT", Host "ok";
    init_replaced: "ENOENT", Host "EACCES";
    other_processes: "ours alone", Host "others";
    stop_init: "unmoved", Host "stopped";
    disturb_init: "unmoved", Host "stopped";
    kill_init: "unmoved", Host "stopped";
    kill_init_by_pidfd: "unmoved", Host "stopped";
    kill_process_of_the_host: "ESRCH", Host "ok";
    group_of_the_host: "ESRCH", Host "ok";
    oom_score_adj: "EACCES", Host "ok";
    oom_adj: "EACCES", Host "ok";
    timens_offsets: "EACCES", Host "ok";
    loginuid: "EACCES", Host "ok";
    coredump_filter: "EACCES", Host "ok";
    clear_refs: "EACCES", Host "ok";
    security_attribute: "EACCES", Host "ok";
    autogroup: "EACCES", Host "ok";
    comm: "EACCES", Host "ok";
    timerslack: "EACCES", Host "ok";
    own_memory: "EACCES", Host "ok";
    own_executable: "EROFS", Host "EACCES";
    reopen_for_writing: "EROFS", Host "ok";
    everything_but_processes: "self thread-self", Host "more";
    sysctl: "absent", Host "there";
    kernel_keys: "absent", Host "there";
    kernel_symbols: "absent", Host "there";
    interrupts: "absent", Host "there";
    sys_file_system: "absent", Host "there";
    cgroup_file_system: "absent", Host "there";
    core_dump: "no core", Host "core";
}

group! { machine:
    // The files of /proc and /sys that are there are of the run's own. Each is asked for what it would say of the host.
    memory: "another", Host "the host's";
    processor_bugs: "untold", Host "told";
    processor_microcode: "untold", Host "told";
    switches: "none", Host "some";
    interrupts: "none", Host "some";
    busy_time: "none", Host "some";
    idle_time: "still", Host "moves";
    load: "none", Host "some";
    builder: "untold", Host "told";
    paging: "none", Host "some";
    file_systems: "ours alone", Host "more";
    sys_directory: "devices fs proc", Host "more";
    devices_directory: "system", Host "more";
    cpu_directory: "online possible present", Host "more";
    cgroup_directory: "limits", Host "more";
    neighbours: "none", Host "some";
    neighbours_through_own_root: "none", Host "some";
    permissions: "EROFS", Host "EPERM";
    remove_file: "EROFS", Host "EACCES";
    uncover_memory: "EPERM", Root "EINVAL";
    unrestrict_proc: "EPERM", Root "ok";
}

group! { leaks:
    // gantry itself is started with descriptors 5, 6, 7 and 9 open, LISTEN_FDS=3 and variables set; so is the twin.
    descriptors: "streams alone", Host "others";
    streams_are_pipes: "True", Host "False";
    directory_descriptor: "none", Host "escaped";
    planted_contents: "none", Host "read";
    variables: "", Host "LISTEN_FDS LISTEN_PID PLANTED XDG_RUNTIME_DIR";
    initial_environment: "clean", Host "planted";
}

group! { files:
    // The image belongs to the user inside, so that EROFS is the mount's answer; outside, other people's files are EACCES.
    write_root: "EROFS", Host "ok";
    append_to_code: "EROFS", Host "ok";
    replace_code: "EROFS", Host "ok";
    remove_code: "EROFS", Host "ok";
    truncate_code: "EROFS", Host "ok";
    chmod_code: "EROFS", Host "ok";
    touch_code: "EROFS", Host "ok";
    link_code_inside: "EROFS", Host "ok";
    link_code_to_tmp: "EXDEV", Host "ok";
    symlink_in_code: "EROFS", Host "ok";
    rename_code_directory: "EROFS", Host "ok";
    poison_own_bytecode: "EROFS", Host "ok";
    poison_library_bytecode: "EROFS", Host "EACCES";
    poison_library_source: "EROFS", Host "EACCES";
    poison_site_packages: "EROFS", Host "ok";
    poison_interpreter: "EROFS", Host "EACCES";
    poison_loader_configuration: "EROFS", Host "EACCES";
    write_passwd: "EROFS", Host "EACCES";
    write_certificates: "EROFS", Host "EACCES";
    execute_in_tmp: "EACCES", Host "ok";
    execute_in_output: "EACCES", Host "ok";
    execute_in_shared_memory: "EACCES", Host "ok";
    execute_through_loader: "refused", Host "ok";
    execute_descriptor: "EACCES", Host "ok";
    map_executable: "EPERM", Host "ok";
    protect_executable: "EACCES", Host "ok";
    load_library: "refused", Host "ok";
    landlock_after_exec: "EACCES", Host "ok";
    link_out_of_tmp: "EROFS", Host "EACCES";
    path_of_the_host: "ENOENT", Host "ok";
    path_beyond_the_root: "ENOENT", Host "ok";
    path_through_own_root: "ENOENT", Host "ok";
    path_through_init_root: "ENOENT", Host "ok";
    read_shadow: "ENOENT", Host "EACCES";
    home_directories: "none", Host "some";
    write_secrets: "EACCES", Host "ok";
    add_secret: "EROFS", Host "ok";
    write_input: "EROFS", Host "ok";
}

group! { bombs:
    // With --pids 32 --tmp-size 8M --output-size 4M --shm-size 4M. Memory and cpu are not here: without a delegated cgroup they are
    // watched at best, and scripts/test-limits attacks them in User-Mode Linux.
    processes: "EAGAIN below 32", Host "ok";
    threads: "refused below 32", Host "ok";
    bytes_of_tmp: "ENOSPC", Host "ok";
    bytes_of_output: "ENOSPC", Host "ok";
    bytes_of_shared_memory: "ENOSPC", Host "ok";
    inodes_of_tmp: "ENOSPC", Host "ok";
    inodes_of_output: "ENOSPC", Host "ok";
    inodes_of_shared_memory: "ENOSPC", Host "ok";
    sparse_giant: "EFBIG", Host "ok";
    sparse_seek: "EFBIG", Host "ok";
    locked_memory: "ENOMEM", Host "ok";
    huge_pages: "EPERM", Host "ok";
    open_files: "EMFILE", Host "ok";
    inotify_instances: "EMFILE", Host "ok";
    inotify_watches: "ENOSPC", Host "ok";
    raise_open_files: "EPERM", Host "ok";
    raise_processes: "EPERM", Host "ok";
    raise_core: "EPERM", Host "ok";
    raise_locked_memory: "EPERM", Host "ok";
    raise_file_size: "EPERM", Host "ok";
    raise_stack: "EPERM", Host "ok";
    raise_pending_signals: "EPERM", Host "ok";
    raise_message_queues: "EPERM", Host "ok";
    signals_in_the_queue: "EAGAIN", Host "ok";
}

group! { terminal:
    // ENOTTY is what the kernel says of any file or pipe; EBADF, as it is asked of none, says that it was let in.
    inject_input: "ENOTTY", Host "EBADF";
    inject_input_high_bits: "ENOTTY", Host "EBADF";
    inject_input_all_high_bits: "ENOTTY", Host "EBADF";
    paste_selection: "ENOTTY", Host "EBADF";
    paste_selection_high_bits: "ENOTTY", Host "EBADF";
    line_discipline: "ENOTTY", Host "EBADF";
    redirect_console: "ENOTTY", Host "EBADF";
    window_size: "ENOTTY", Host "EBADF";
    interface_of_a_bridge: "ENOTTY", Host "EBADF";
    parent_of_a_namespace: "ENOTTY", Host "EBADF";
    controlling_terminal: "ENOENT", Host "ENXIO";
}
