"""The attacks from inside, as data: what the program of attack.c is told, and what it must answer where.

{words} in braces are facts that the test fills in.  An answer is WORKED, or why it was refused: an errno's name or a
word of the program's.  Where there are several, kernels differ.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """A row.  outside: what root whom nothing confines is answered, which shows that the kernel would do it."""

    name: str
    words: str
    inside: frozenset[str]
    outside: frozenset[str]
    lacks: frozenset[str]  # what a kernel that was built without it answers to everyone
    nested: frozenset[str]  # inside, as root of a user namespace and all others that were made in the VE
    elsewhere: str  # what the program is told outside
    capability: str  # without which even the host's root is refused


def row(
    name: str,
    words: str = "",
    inside: str = "EPERM",
    outside: str = "WORKED",
    lacks: str = "",
    nested: str = "",
    elsewhere: str = "",
    capability: str = "",
) -> Attack:
    """Answers are separated by spaces."""
    given = {"inside": inside, "outside": outside, "lacks": lacks, "nested": nested or inside}
    answers = {where: frozenset(text.split()) for where, text in given.items()}
    words = words or name
    return Attack(name=name, words=words, elsewhere=elsewhere or words, capability=capability, **answers)


# Against somebody who is not in the VE: a process that has one of everything, and tells what of it was touched.
ACROSS = (
    row("see its command line", "see {mark}", "ESRCH"),
    row("it into a cgroup of the VE", "write {procs} {pid}", "ESRCH EACCES"),  # first: it resets where it may run
    row("kill", "kill {pid}", "ESRCH"),
    row("tgkill", "tgkill {pid}", "ESRCH"),
    row("sigqueue", "sigqueue {pid}", "ESRCH"),
    row("pidfd_send_signal", "pidfd-signal {pid}", "ESRCH"),
    row("pidfd_getfd", "pidfd-getfd {pid}", "ESRCH"),
    row("setns to its pidfd", "pidfd-setns {pid}", "ESRCH"),
    row("ptrace", "ptrace {pid} {word0}", "ESRCH"),
    row("process_vm_writev", "process_vm_writev {pid} {word1}", "ESRCH"),
    row("its memory by proc", "memory-file {pid} {word2}", "ENOENT"),
    row("its root by proc", "proc {pid} root/", "ENOENT"),
    row("its mount namespace by proc", "proc {pid} ns/mnt", "ENOENT"),
    row("its environment by proc", "proc {pid} environ", "ENOENT"),
    row("kcmp", "kcmp {pid}", "ESRCH", lacks="ENOSYS"),
    row("prlimit", "prlimit {pid}", "ESRCH"),
    row("sched_setaffinity", "affinity {pid}", "ESRCH"),
    row("setpriority", "priority {pid}", "ESRCH"),
    row("sched_setscheduler", "scheduler {pid}", "ESRCH"),
    row("ioprio_set", "ioprio {pid}", "ESRCH"),
    row("SIGIO by F_SETOWN", "sigio {pid}", "ESRCH"),
    row("shared memory by its key", "shm {key}", "ENOENT"),
    row("shared memory by its number", "shm-number", "ENOENT"),
    row("semaphore", "sem {key}", "ENOENT"),
    row("message queue", "msg {key}", "ENOENT"),
    row("POSIX queue", "mq {mq}", "ENOENT"),
    row("abstract socket", "abstract {mq}", "ECONNREFUSED"),
    row("TCP on 127.0.0.1", "loopback {port}", "ECONNREFUSED", nested="ENETUNREACH"),
    row("its terminal by name", "terminal {terminal}", "ENOENT"),
    row("its terminal by a node", "terminal-node {tty}", outside="EIO"),  # only devpts has slaves since 4.7
    row("its terminal in a second devpts", "terminal-devpts {tty}", "ENOENT", outside="ENOENT"),  # always a new one
    row("the audit system", "audit", "ECONNREFUSED", lacks="EPROTONOSUPPORT"),
    row("process events", "connector", "ECONNREFUSED EPERM", lacks="EPROTONOSUPPORT ECONNREFUSED"),
    row("the user namespace above", "climb self user", elsewhere="climb {child} user"),
    row("the pid namespace above", "climb self pid", elsewhere="climb {child} pid"),
)

# The rest is shown to work for the host's root in mount, pid, ipc, net and uts namespaces of its own: nothing changes.
KERNEL = (
    row("kill(-1) of all but the VE", "kill-all", "WORKED", nested="ESRCH"),  # its own, whom the program has ignore it
    row("keyctl", inside="ENOSYS"),
    row("keyctl the 32-bit way", "keyctl-32", "ENOSYS"),
    row("keyctl by a tracer that changes the call", "keyctl-retraced", "ENOSYS"),
    row("keyctl with the filter put aside", "keyctl-unfiltered"),
    row("add_key", inside="ENOSYS"),
    row("request_key", inside="ENOSYS"),
    row("bpf", inside="EACCES"),
    row("perf_event_open", inside="EACCES"),
    row("perf_event_open of itself", "perf_event_open-own", "EACCES"),
    row("userfaultfd", inside="EACCES"),
    row("userfaultfd of its own faults", "userfaultfd-own", "EACCES"),
    row("io_uring", inside="ENOSYS"),
    row("kexec_load", inside="EACCES", outside="EINVAL", lacks="ENOSYS"),
    row("kexec_file_load", inside="EACCES", outside="EINVAL EBADF", lacks="ENOSYS"),
    row("finit_module", inside="EACCES", outside="EBADF", lacks="ENOSYS"),
    row("init_module", inside="EACCES", outside="ENOEXEC EFAULT", lacks="ENOSYS"),
    row("delete_module", inside="EACCES", outside="ENOENT", lacks="ENOSYS"),
    row("syslog", inside="EACCES"),
    row("syslog of the console's level", "syslog-level", "EACCES", outside="EINVAL"),
    row("settimeofday", outside="EINVAL"),
    row("adjtimex", outside="EINVAL"),
    row("clock_adjtime", outside="EINVAL"),
    row("swapon", outside="ENOENT"),
    row("swapoff", outside="ENOENT"),
    row("acct", outside="ENOENT"),
    row("quotactl", "quotactl {share}", outside="ESRCH", lacks="ENOSYS"),
    row("MADV_HWPOISON", "hwpoison", outside="EFAULT", lacks="EINVAL"),
    row("vhangup"),
    row("lower nice value", "nice", "EACCES"),
    row("SCHED_FIFO", "realtime"),
    row("SCHED_DEADLINE", "deadline"),
    row("real-time I/O", "ioprio-realtime"),
    row("PR_SET_MM", "prctl-mm", outside="EINVAL", capability="sys_resource"),
    row("capset sys_module", "capset 16", nested="WORKED"),  # over what is in that namespace: nothing
    row("capset sys_rawio", "capset 17", nested="WORKED"),
    row("capset sys_time", "capset 25", nested="WORKED"),
    row("capset net_admin", "capset 12", nested="WORKED"),
    row("capset sys_nice", "capset 23", nested="WORKED"),
    row("setuid beyond its range", "setuid", "EINVAL"),
    row("user namespace of all users", "uid-map 0,0,4294967295"),
    row("user namespace of one beyond its range", "uid-map 0,70000,1"),
    row("fanotify permissions", "fanotify", lacks="ENOSYS"),
    row("OOM killer passes over", "oom_score_adj", "EACCES", capability="sys_resource"),
    row("more processes", "nproc", capability="sys_resource"),
    row("iopl", lacks="ENOSYS"),
    row("ioperm", lacks="ENOSYS"),
    row("network interface", "interface"),  # nested: the VE's, by a socket of before
    row("vsock", "family 40 1", "EACCES", lacks="EAFNOSUPPORT"),
    row("qrtr", "family 42 2", "EACCES", lacks="EAFNOSUPPORT"),
)

FILES = (
    row("core_pattern", "rewrite /proc/sys/kernel/core_pattern", "EACCES EROFS"),
    row("modprobe", "rewrite /proc/sys/kernel/modprobe", "EACCES EROFS", lacks="ENOENT"),
    row("shmall", "rewrite /proc/sys/kernel/shmall", "EACCES EROFS"),
    row("ns_last_pid", "write /proc/sys/kernel/ns_last_pid 500", "EACCES EROFS", lacks="ENOENT"),
    row("max_user_namespaces", "rewrite /proc/sys/user/max_user_namespaces", "EROFS", capability="sys_resource"),
    row("ip_forward", "rewrite /proc/sys/net/ipv4/ip_forward", "EACCES EROFS"),
    row("drop_caches", "write /proc/sys/vm/drop_caches 0", "EACCES EROFS", outside="EINVAL"),
    row("any sysctl", "write-anywhere /proc/sys", "NONE"),
    row("anything in sysfs", "write-anywhere /sys here", "NONE", elsewhere="write-anywhere /sys/module/printk"),
    row("sysrq", "write /proc/sysrq-trigger h", "EACCES EROFS", lacks="ENOENT"),
    row("uevent_helper", "rewrite /sys/kernel/uevent_helper", "EACCES EROFS", lacks="ENOENT"),
    row("kmsg in proc", "read /proc/kmsg", "EPERM EACCES", outside="WORKED EAGAIN"),
    row("kcore", "read /proc/kcore", "EMPTY EACCES", lacks="ENOENT"),
    row("keys", "read /proc/keys", "EMPTY"),
    row("timer_list", "read /proc/timer_list", "EMPTY EACCES", lacks="ENOENT"),
    row("slabinfo", "read /proc/slabinfo", "EACCES", lacks="ENOENT"),
    row("vmallocinfo", "read /proc/vmallocinfo", "EACCES", lacks="ENOENT"),
    row("pagetypeinfo", "read /proc/pagetypeinfo", "EACCES", lacks="ENOENT"),
    row("kpagecount", "read /proc/kpagecount", "EACCES", lacks="ENOENT"),
    row("page frames", "pagemap", "ZEROS"),
    row("map_files"),
    row("entropy", outside="EINVAL"),
    row("addresses in kallsyms", "addresses /proc/kallsyms", "ZEROS", lacks="ENOENT"),
    row("addresses in modules", "addresses /proc/modules", "ZEROS", lacks="ENOENT"),
    *(row(f"mount {kind}", lacks="ENODEV") for kind in ("debugfs", "tracefs", "securityfs", "configfs", "pstore")),
    *(row(f"mount {kind}", lacks="ENODEV") for kind in ("devtmpfs", "hugetlbfs", "fusectl")),
    row("mount efivarfs", lacks="ENODEV EOPNOTSUPP"),
    row("fresh sysfs", "mount sysfs"),
    row("cgroup v1", "cgroup-v1 {v1}", "EACCES EPERM", lacks="ENODEV", elsewhere="mount cgroup none {v1}"),
    row("new cgroup v1", "mount cgroup none none,name=attack-new", lacks="ENODEV"),
    row("release_agent", "mount cgroup none none,name=attack-agent,release_agent=/x", "EINVAL EPERM", lacks="ENODEV"),
    row("its own cgroup's depth", "rewrite {own}/cgroup.max.depth", "EACCES"),
    row("its own freezing", "rewrite {own}/cgroup.freeze", "EACCES"),
    row("its own end", "write {own}/cgroup.kill 1", "EACCES"),
    row("its own memory limit", "rewrite {own}/memory.max", "EACCES ENOENT", lacks="ENOENT"),
    row("its own process limit", "rewrite {own}/pids.max", "EACCES ENOENT", lacks="ENOENT"),
    row("another VE's cgroup", "mount-open cgroup2 {other}/cgroup.procs", "ENOENT"),
    row("kmsg device", "node c 1 11"),
    row("mem device", "node c 1 1"),
    row("port device", "node c 1 4"),
    row("virtual terminal", "node c 4 1"),
    row("console device", "node c 5 1"),
    row("kvm device", "node c 10 232"),
    row("loop-control device", "node c 10 237"),
    row("msr device", "node c 202 0"),
    row("block device", "node b {loop}"),
    row("block device on a new tmpfs", "node-tmpfs b {loop}"),
    row("mount a block device", "mount-device {device} {loop}", "EPERM ENOENT EACCES"),
    row("given read only, by remount", "remount {frozen}"),
    row("given read only, by mount_setattr", "clear {frozen} ro"),
    row("given nosuid", "clear {share} nosuid"),
    row("given nodev", "clear {share} nodev"),
    row("id map of what is given", "idmap {share}"),
    row("freeze what is given", "control freeze {share}", outside="EOPNOTSUPP", elsewhere="control freeze {room}"),
    row("shut down what is given", "control shutdown {share}", outside="EINVAL", lacks="ENOTTY"),
    row("immutable in what is given", "immutable {share}"),
    row("immutable in its root", "immutable /root", elsewhere="immutable {share}"),
    row("trusted attribute", "trusted /root", elsewhere="trusted {share}"),
    row("fanotify of what is given", "fanotify-mark {share}", lacks="ENOSYS"),
    row("open_by_handle_at", "handle {share} {handle}", "EACCES"),
    row("chroot", "chroot {marker}", "ENOENT"),
    row("umount of its root", "umount-root {marker}", "EINVAL", outside="WORKED ENOENT"),
    row("pivot_root", "pivot_root {marker}", "ENOENT"),
    row("superblock of sysfs", "reconfigure /sys", "NONE EPERM"),
    row("directory that was left open", "leaked {marker}", "ENOENT"),
    row("what processes show in proc", "leaked-by-others {marker}", "ENOENT"),
    row("variable of the host", "variable {variable}", "UNSET"),
)

# What hides and what forbids writing in a VE's proc and sysfs, and each way to get under it.
_WAYS = ("umount", "rbind", "move", "bind", "open_tree", "open_tree-all", "cover")
MASKS = (
    *(row(f"keys by {way}", f"mask-{way} {{proc}} keys keys read", "EINVAL EPERM") for way in _WAYS),
    *(row(f"sysctl by {way}", f"mask-{way} {{proc}} sys sys/kernel/shmall write", "EINVAL EPERM") for way in _WAYS),
    row("keys by a mount beneath", "mask-beneath {proc} keys keys read", "EINVAL", lacks="EINVAL"),  # from 6.5
    row("sysctl by remount", "mask-remount {proc} sys sys/kernel/shmall write"),
    row("sysctl by mount_setattr", "mask-setattr {proc} sys sys/kernel/shmall write"),
    row("fresh proc", "mask-fresh {proc} - keys read proc"),
    row("fresh proc of pids", "mask-fresh {proc} - self/comm read proc subset=pid"),
    row("fresh proc by fsmount", "mask-fsmount {proc} - keys read proc"),
)

ALONE = (*KERNEL, *FILES, *MASKS)
