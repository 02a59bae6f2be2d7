/* At the kernel that all share.  Where success would change the machine, an argument is wrong: the error that says so
   comes after the check of who asks. */
#include "attack.h"
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/nsfs.h>
#include <linux/perf_event.h>
#include <linux/reboot.h>
#include <net/if.h>
#include <stddef.h>
#include <sys/fanotify.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/quota.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <sys/timex.h>

#include <sys/user.h>
#include <time.h>
#ifdef __x86_64__
#include <sys/io.h>
#endif

#define NONE "/attack.none" /* no file */
#define CALL(name, ...)                                                                                                \
	static int name(char **words)                                                                                  \
	{                                                                                                              \
		(void)words;                                                                                           \
		return (__VA_ARGS__) == -1 ? -1 : 0;                                                                   \
	}

CALL(get_keyring, syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0))
CALL(add_key, syscall(SYS_add_key, "user", "attack", "x", 1, KEY_SPEC_PROCESS_KEYRING))
CALL(request_key, syscall(SYS_request_key, "user", "attack.none", NULL, 0) == -1 && errno == ENOKEY ? 0 : -1)
CALL(make_map, syscall(SYS_bpf, BPF_MAP_CREATE,
		       &(union bpf_attr){.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1},
		       sizeof(union bpf_attr)))
CALL(watch_cpu, syscall(SYS_perf_event_open,
			&(struct perf_event_attr){.type = PERF_TYPE_SOFTWARE, .size = sizeof(struct perf_event_attr),
						  .config = PERF_COUNT_SW_CPU_CLOCK},
			-1, 0, -1, 0))
CALL(watch_itself, syscall(SYS_perf_event_open,
			   &(struct perf_event_attr){.type = PERF_TYPE_SOFTWARE, .size = sizeof(struct perf_event_attr),
						     .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1},
			   0, -1, -1, 0))
CALL(handle_faults, syscall(SYS_userfaultfd, O_CLOEXEC))
CALL(handle_own_faults, syscall(SYS_userfaultfd, O_CLOEXEC | 1))
CALL(ring, syscall(SYS_io_uring_setup, 1, &(struct io_uring_params){0}))
CALL(load_kernel, syscall(SYS_kexec_load, 0, 1000, NULL, 0))
CALL(load_kernel_file, syscall(SYS_kexec_file_load, -1, -1, 0, "", 0xfff0))
CALL(load_module, syscall(SYS_finit_module, -1, "", 0))
CALL(load_module_image, syscall(SYS_init_module, NULL, 0, ""))
CALL(remove_module, syscall(SYS_delete_module, "attack_none", O_NONBLOCK))
CALL(read_log, klogctl(10, NULL, 0))
CALL(set_log_level, klogctl(8, NULL, 0))
CALL(set_zone, syscall(SYS_settimeofday, NULL, &(struct timezone){10000, 0}))
CALL(set_tick, adjtimex(&(struct timex){.modes = ADJ_TICK, .tick = 1}))
CALL(set_clock_tick, syscall(SYS_clock_adjtime, CLOCK_REALTIME, &(struct timex){.modes = ADJ_TICK, .tick = 1}))
CALL(swap_on, swapon(NONE, 0))
CALL(swap_off, swapoff(NONE))
CALL(account, acct(NONE))
CALL(set_quota, syscall(SYS_quotactl_fd, open(words[0], O_RDONLY), QCMD(Q_SETQUOTA, USRQUOTA), 0, &(struct dqblk){0}))
CALL(poison, madvise((void *)4096, 4096, MADV_HWPOISON))
CALL(hang_up_itself, setsid() == -1 ? -1 : vhangup())
CALL(be_nicer, setpriority(PRIO_PROCESS, 0, -5))
CALL(be_realtime, sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){1}))
CALL(io_first, syscall(SYS_ioprio_set, 1, 0, 1 << 13))
CALL(set_mm, prctl(PR_SET_MM, PR_SET_MM_START_CODE, 1, 0, 0))
CALL(raise_ambient, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_MODULE, 0, 0))
CALL(be_unmapped, setresuid(70000, 70000, 70000))
CALL(permission_events, fanotify_init(FAN_CLASS_CONTENT, O_RDONLY))
CALL(be_oom_proof, put("/proc/self/oom_score_adj", "-1000"))
CALL(have_more_processes, setrlimit(RLIMIT_NPROC, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}))
CALL(end_all, reboot(RB_AUTOBOOT))
#ifdef __x86_64__
CALL(all_ports, iopl(3))
CALL(one_port, ioperm(0x80, 1, 1))
/* By the way of 32-bit programs: keyctl is 288 there. */
static int narrow_keyctl(char **words)
{
	(void)words;
	long result;
	asm volatile("int $0x80" : "=a"(result) : "a"(288), "b"(0), "c"(-3), "d"(0) : "memory", "r8", "r9", "r10", "r11");
	errno = result < 0 ? (int)-result : 0;
	return result < 0 ? -1 : 0;
}
#else
CALL(all_ports, (errno = ENOSYS, -1))
CALL(one_port, (errno = ENOSYS, -1))
CALL(narrow_keyctl, (errno = ENOSYS, -1))
#endif

static int deadline(char **words)
{
	(void)words;
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} given = {48, 6, 0, 0, 0, 1000000, 10000000, 10000000};
	return (int)syscall(SYS_sched_setattr, 0, &given, 0);
}

static int hang_up(char **words)
{
	return in_child(hang_up_itself, words); /* which may make a session, and so has no terminal to lose */
}

static int raise_capability(char **words)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2];
	int which = atoi(words[0]);
	need((int)syscall(SYS_capget, &head, sets), "capget");
	sets[which / 32].permitted |= 1U << which % 32;
	sets[which / 32].effective |= 1U << which % 32;
	return (int)syscall(SYS_capset, &head, sets);
}

/* The network's administration: the flags that lo has, written back. */
static int set_interface(char **words)
{
	(void)words;
	struct ifreq lo = {.ifr_name = "lo"};
	int fd = fcntl(OUTER_SOCKET, F_GETFD) == -1 ? need(socket(AF_INET, SOCK_DGRAM, 0), "have a socket") : OUTER_SOCKET;
	need(ioctl(fd, SIOCGIFFLAGS, &lo), "ask for lo's flags");
	return ioctl(fd, SIOCSIFFLAGS, &lo);
}

/* ---- around the filter of system calls ----------------------------------------------------------------------------- */

static long ask_for_keyring(long call)
{
	return syscall(call, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
}

/* The tracer of a process makes another system call of one that is let through. */
static int change_call(char **words)
{
	(void)words;
#ifdef __x86_64__
	int status;
	pid_t child = need(fork(), "fork");
	if (child == 0) {
		need((int)ptrace(PTRACE_TRACEME, 0, NULL, NULL), "be traced");
		raise(SIGSTOP);
		_exit(ask_for_keyring(SYS_getppid) == -1 ? errno : 0);
	}
	need(waitpid(child, &status, 0), "wait");
	need((int)ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD), "trace");
	while (ptrace(PTRACE_SYSCALL, child, NULL, NULL) == 0 && waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		long at = ptrace(PTRACE_PEEKUSER, child, offsetof(struct user_regs_struct, orig_rax), NULL);
		if (at == SYS_getppid)
			need((int)ptrace(PTRACE_POKEUSER, child, offsetof(struct user_regs_struct, orig_rax), SYS_keyctl),
			     "change its call");
	}
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
#else
	errno = ENOSYS;
#endif
	return errno ? -1 : 0;
}

/* What CRIU has its filters put aside by. */
static int suspend_filter(char **words)
{
	(void)words;
	int status;
	pid_t child = need(fork(), "fork");
	if (child == 0) {
		raise(SIGSTOP);
		_exit(ask_for_keyring(SYS_keyctl) == -1 ? errno : 0);
	}
	need(waitpid(child, &status, WUNTRACED), "wait");
	int traced = (int)ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_SUSPEND_SECCOMP), error = errno;
	kill(child, traced ? SIGKILL : SIGCONT);
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
		ptrace(PTRACE_CONT, child, NULL, NULL);
	errno = traced ? error : WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
	return errno ? -1 : 0;
}

/* ---- namespaces ---------------------------------------------------------------------------------------------------- */

/* The namespace above that of a process. */
static int climb(char **words)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%s/ns/%s", words[0], words[1]);
	int fd = need(open(path, O_RDONLY), "open its namespace");
	return ioctl(fd, NS_GET_PARENT) == -1 ? -1 : 0;
}

static int map_users(char **words)
{
	char path[64];
	pid_t child = in_user_namespace(path);
	strcat(path, "/uid_map");
	for (char *each = words[0]; *each; each++)
		*each = *each == ',' ? ' ' : *each;
	int result = put(path, words[0]), error = errno;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	errno = error;
	return result;
}

/* Of the asynchronous I/O requests that the whole machine may have, some. */
static int have_requests(char **words)
{
	unsigned long context = 0;
	if (syscall(SYS_io_setup, atoi(words[0]), &context) == -1)
		return -1;
	until_the_witness_has_looked();
	return 0;
}

const struct attack KERNEL[] = {
	{"keyctl", get_keyring},
	{"keyctl-32", narrow_keyctl},
	{"keyctl-retraced", change_call},
	{"keyctl-unfiltered", suspend_filter},
	{"add_key", add_key},
	{"request_key", request_key},
	{"bpf", make_map},
	{"perf_event_open", watch_cpu},
	{"perf_event_open-own", watch_itself},
	{"userfaultfd", handle_faults},
	{"userfaultfd-own", handle_own_faults},
	{"io_uring", ring},
	{"kexec_load", load_kernel},
	{"kexec_file_load", load_kernel_file},
	{"finit_module", load_module},
	{"init_module", load_module_image},
	{"delete_module", remove_module},
	{"syslog", read_log},
	{"syslog-level", set_log_level},
	{"settimeofday", set_zone},
	{"adjtimex", set_tick},
	{"clock_adjtime", set_clock_tick},
	{"swapon", swap_on},
	{"swapoff", swap_off},
	{"acct", account},
	{"quotactl", set_quota},
	{"hwpoison", poison},
	{"vhangup", hang_up},
	{"nice", be_nicer},
	{"realtime", be_realtime},
	{"deadline", deadline},
	{"ioprio-realtime", io_first},
	{"prctl-mm", set_mm},
	{"ambient", raise_ambient},
	{"capset", raise_capability},
	{"setuid", be_unmapped},
	{"uid-map", map_users},
	{"fanotify", permission_events},
	{"oom_score_adj", be_oom_proof},
	{"reboot", end_all},
	{"nproc", have_more_processes},
	{"aio", have_requests},
	{"iopl", all_ports},
	{"ioperm", one_port},
	{"interface", set_interface},
	{"climb", climb},
	{0},
};
