/*
 * The floor: the life of a VE of ve's default profile in C, so that the library is compared with what the kernel costs.
 *
 *	floor TEMPLATE CGROUP SCRATCH FILTERS
 *
 * Each line of standard input is one of the operations below, and is answered by the microseconds that it took:
 *
 *	lo	a container whose init is the template's /sbin/init: made, ended, removed
 *	veth	the same with a veth pair and a routed address
 *	up	one that stays, its init /bin/sleep, and
 *	exec	/sbin/init executed in that, as another process, until it has ended
 *	down	its end
 *	show	as lo, but its init is /bin/sh -c with what FLOOR_SHOWS says, and our standard output: for the test that
 *		compares what it sees with what a VE sees
 *	look	the same of veth
 *
 * FILTERS is a directory with what ve compiled: device.bpf, pass.bpf and refuse.bpf.  What ve does besides a container,
 * its locks, leases, notes and hooks, is not here; what makes the container is, namespace by namespace and mount by
 * mount: time, user, pid, uts, ipc, net, cgroup and mount namespaces, id maps, an idmapped template under an overlay
 * whose upper layer is a tmpfs, protected mounts locked by a second mount namespace, limits, a device filter, a session
 * keyring, the bounding set, and both seccomp filters.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"

#define COUNT(table) (sizeof(table) / sizeof(table)[0])
#define EVERY_NAMESPACE                                                                                       \
	(CLONE_NEWTIME | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | \
	 CLONE_NEWCGROUP)

struct program {
	char bytes[16384];
	size_t size;
};

/* One container: what its processes hand on to each other. */
struct life {
	unsigned serial;
	bool veth;
	bool shown;
	char *const *argv;
	char cgroup[512];
	int limited[2]; /* init has written its limits: setup may mount and pivot */
	int rooted[2]; /* setup has mounted the root: init may go on */
	int linked[2]; /* we have made the pair: init may bring up its end */
	int born[2]; /* init's pid on the host, from setup */
	pid_t init;
};

static struct floor floor_;
static struct program device_filter, filters[2];
static unsigned long most_threads; /* that the host can have */
static const int dropped[] = { CAP_NET_ADMIN, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_NICE, CAP_SYS_TIME };
static const char *const limited_namespaces[] = { "time", "user", "pid", "uts", "ipc", "net", "cgroup", "mnt" };

void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "floor: cannot %s: %s\n", what, strerror(errno));
	_exit(1);
}

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
	close(fd);
}

static void load(struct program *program, const char *directory, const char *name)
{
	char path[512];
	int fd;

	snprintf(path, sizeof path, "%s/%s", directory, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	must(fd >= 0, path);
	program->size = read(fd, program->bytes, sizeof program->bytes);
	must(program->size > 0 && program->size < sizeof program->bytes, path);
	close(fd);
}

static unsigned long read_number(const char *path)
{
	unsigned long found = 0;
	FILE *file = fopen(path, "re");

	must(file && fscanf(file, "%lu", &found) == 1, path);
	fclose(file);
	return found;
}

static void tell(int pipe_end)
{
	must(write(pipe_end, "x", 1) == 1, "tell");
}

static void await(int pipe_end)
{
	char byte;

	if (read(pipe_end, &byte, 1) != 1)
		_exit(1); /* who should have said so has failed, and told why itself */
}

static pid_t clone3(uint64_t flags, int cgroup, int exit_signal)
{
	struct clone_args how = { .flags = flags, .exit_signal = exit_signal };

	if (cgroup >= 0) {
		how.flags |= CLONE_INTO_CGROUP;
		how.cgroup = cgroup;
	}
	return syscall(SYS_clone3, &how, sizeof how);
}

/* --- the cgroup --------------------------------------------------------------------------------------------------- */

static void filter_devices(const char *cgroup)
{
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE };
	union bpf_attr attach = { .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI };
	int directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), loaded;

	load.insns = (uintptr_t)device_filter.bytes;
	load.insn_cnt = device_filter.size / sizeof(struct bpf_insn);
	load.license = (uintptr_t) "GPL";
	loaded = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
	must(loaded >= 0, "load the device filter");
	attach.target_fd = directory;
	attach.attach_bpf_fd = loaded;
	must(!syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach), "attach the device filter");
	close(loaded);
	close(directory);
}

static void make_cgroup(struct life *life)
{
	static const char *const given[] = { "", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads" };
	char path[600];

	snprintf(life->cgroup, sizeof life->cgroup, "%s/%u", floor_.cgroup, life->serial);
	must(!mkdir(life->cgroup, 0755), "make the cgroup");
	snprintf(path, sizeof path, "%s/init", life->cgroup);
	must(!mkdir(path, 0755), "make init's cgroup");
	snprintf(path, sizeof path, "%s/exec", life->cgroup);
	must(!mkdir(path, 0755), "make the cgroup of commands");
	snprintf(path, sizeof path, "%s/cgroup.max.depth", life->cgroup);
	write_file(path, "32");
	snprintf(path, sizeof path, "%s/cgroup.max.descendants", life->cgroup);
	write_file(path, "4000");
	for (size_t i = 0; i < COUNT(given); i++) {
		snprintf(path, sizeof path, "%s/init%s", life->cgroup, given[i]);
		must(!chown(path, floor_.base, floor_.base), path);
	}
	filter_devices(life->cgroup);
}

/* A process leaves its cgroup a moment after its parent has heard of its end. */
static void remove_cgroup(const char *path)
{
	while (rmdir(path)) {
		must(errno == EBUSY, "remove the cgroup");
		sched_yield();
	}
}

/* --- init --------------------------------------------------------------------------------------------------------- */

static void become(unsigned id)
{
	must(!setgroups(0, NULL), "setgroups");
	must(!setresgid(id, id, id) && !setresuid(id, id, id), "change ids");
	prctl(PR_SET_DUMPABLE, 0);
}

/* On every way in, as ve/confinement.py. */
static void confine(void)
{
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	for (size_t i = 0; i < COUNT(dropped); i++)
		must(!prctl(PR_CAPBSET_DROP, dropped[i]), "drop a capability");
	for (size_t i = 0; i < COUNT(filters); i++) {
		struct sock_fprog program = { .len = filters[i].size / sizeof(struct sock_filter),
					      .filter = (void *)filters[i].bytes };

		must(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "load the seccomp filter");
	}
}

static void execute(char *const *argv)
{
	static char *const environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
					     "HOME=/root", "USER=root", "container=ve", NULL };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(argv[0], argv, environment);
	must(false, argv[0]);
}

static void be_init(struct life *life)
{
	char path[64], name[32];
	int null;

	for (size_t i = 0; i < COUNT(limited_namespaces); i++) {
		snprintf(path, sizeof path, "/proc/sys/user/max_%s_namespaces", limited_namespaces[i]);
		write_file(path, "1024");
	}
	tell(life->limited[1]);
	close(life->rooted[1]);
	await(life->rooted[0]);
	become(0);
	prctl(PR_SET_SECUREBITS, 0);
	must(!chdir("/"), "chdir");
	must(!unshare(CLONE_NEWCGROUP), "unshare the cgroup namespace");
	must(!unshare(CLONE_NEWNS), "unshare the mount namespace");
	mount_own();
	snprintf(name, sizeof name, "ve%u", life->serial);
	must(!sethostname(name, strlen(name)), "sethostname");
	if (life->veth) {
		close(life->linked[1]);
		await(life->linked[0]);
		link_inside(life->serial);
	} else {
		loopback_up();
	}
	setsid();
	if (!life->shown) {
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
	}
	syscall(SYS_close_range, 3, ~0U, 0);
	confine();
	execute(life->argv);
}

/* --- setup -------------------------------------------------------------------------------------------------------- */

static void machine_limits(void)
{
	const rlim_t threads = most_threads / 2;
	const struct {
		int which;
		struct rlimit to;
	} limits[] = {
		{ RLIMIT_CPU, { RLIM_INFINITY, RLIM_INFINITY } },   { RLIMIT_FSIZE, { RLIM_INFINITY, RLIM_INFINITY } },
		{ RLIMIT_DATA, { RLIM_INFINITY, RLIM_INFINITY } },  { RLIMIT_STACK, { 8 << 20, RLIM_INFINITY } },
		{ RLIMIT_CORE, { 0, RLIM_INFINITY } },		    { RLIMIT_RSS, { RLIM_INFINITY, RLIM_INFINITY } },
		{ RLIMIT_NOFILE, { 1024, 524288 } },		    { RLIMIT_MEMLOCK, { 8 << 20, 8 << 20 } },
		{ RLIMIT_AS, { RLIM_INFINITY, RLIM_INFINITY } },    { RLIMIT_LOCKS, { RLIM_INFINITY, RLIM_INFINITY } },
		{ RLIMIT_MSGQUEUE, { 819200, 819200 } },	    { RLIMIT_NICE, { 0, 0 } },
		{ RLIMIT_RTPRIO, { 0, 0 } },			    { RLIMIT_RTTIME, { RLIM_INFINITY, RLIM_INFINITY } },
		{ RLIMIT_NPROC, { threads, threads } },		    { RLIMIT_SIGPENDING, { threads, threads } },
	};
	struct sched_param none = { 0 };
	cpu_set_t every;

	for (size_t i = 0; i < COUNT(limits); i++) {
		struct rlimit now, wanted = limits[i].to;

		if (!setrlimit(limits[i].which, &wanted))
			continue;
		getrlimit(limits[i].which, &now); /* without CAP_SYS_RESOURCE no more than we may have */
		wanted.rlim_max = now.rlim_max;
		wanted.rlim_cur = wanted.rlim_cur < now.rlim_max ? wanted.rlim_cur : now.rlim_max;
		setrlimit(limits[i].which, &wanted);
	}
	personality(PER_LINUX);
	prctl(PR_SET_TIMERSLACK, 50000);
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	memset(&every, 0xff, sizeof every);
	sched_setaffinity(0, sizeof every, &every);
	sched_setscheduler(0, SCHED_OTHER, &none);
	setpriority(PRIO_PROCESS, 0, 0);
	write_file("/proc/self/oom_score_adj", "0");
	write_file("/proc/self/coredump_filter", "0x33");
}

static void clocks_at_zero(void)
{
	struct timespec monotonic, boot;
	char text[128];

	must(!unshare(CLONE_NEWTIME), "unshare the time namespace");
	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	clock_gettime(CLOCK_BOOTTIME, &boot);
	snprintf(text, sizeof text, "monotonic %ld %ld\nboottime %ld %ld\n", -monotonic.tv_sec - 1,
		 1000000000 - monotonic.tv_nsec, -boot.tv_sec - 1, 1000000000 - boot.tv_nsec);
	write_file("/proc/self/timens_offsets", text);
}

/* As root of the container on the host, with every capability: who is this owns the user namespace that it makes. */
static void be_setup(struct life *life)
{
	char options[64], path[64], map[64];
	int cgroup, userns, pidfd, status;
	pid_t mounter;

	must(!mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "make / a slave");
	snprintf(options, sizeof options, "mode=755,uid=%u,gid=%u", floor_.base, floor_.base);
	must(!mount("ve", floor_.scratch, "tmpfs", MS_NODEV | MS_NOSUID, options), "mount the scratch");
	must(!chdir(floor_.scratch), "chdir to the scratch");
	machine_limits();
	prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP);
	become(floor_.base);
	clocks_at_zero();
	cgroup = open(life->cgroup, O_PATH | O_DIRECTORY | O_CLOEXEC);
	cgroup = openat(cgroup, "init", O_PATH | O_DIRECTORY | O_CLOEXEC);
	life->init = clone3(CLONE_PARENT | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET,
			    cgroup, 0);
	must(life->init >= 0, "clone init");
	if (!life->init)
		be_init(life);
	close(life->limited[1]);
	must(write(life->born[1], &life->init, sizeof life->init) == sizeof life->init, "tell init's pid");
	snprintf(map, sizeof map, "0 %u 65536\n", floor_.base);
	snprintf(path, sizeof path, "/proc/%d/uid_map", life->init);
	write_file(path, map);
	snprintf(path, sizeof path, "/proc/%d/gid_map", life->init);
	write_file(path, map);
	snprintf(path, sizeof path, "/proc/%d/ns/user", life->init);
	userns = open(path, O_RDONLY | O_CLOEXEC);
	must(userns >= 0, "open the user namespace");
	mount_union(&floor_, userns);
	await(life->limited[0]); /* it needs the host's /proc no more */
	pidfd = syscall(SYS_pidfd_open, life->init, 0);
	must(!setns(pidfd, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID), "enter init's namespaces");
	mounter = fork(); /* proc shows the pid namespace of its mounter */
	must(mounter >= 0, "fork");
	if (!mounter) {
		mount_protected(&floor_);
		_exit(0);
	}
	must(waitpid(mounter, &status, 0) == mounter && !status, "mount what protects the host");
	tell(life->rooted[1]);
	_exit(0);
}

/* --- a life ------------------------------------------------------------------------------------------------------- */

static void await_end(pid_t pid, const char *what)
{
	int status;

	must(waitpid(pid, &status, __WALL) > 0, what);
	if (status) {
		fprintf(stderr, "floor: %s ended with status %#x\n", what, status);
		exit(1);
	}
}

static void start(struct life *life)
{
	int *const pipes[] = { life->limited, life->rooted, life->linked, life->born };
	char path[64];
	pid_t setup;
	int netns;

	make_cgroup(life);
	for (size_t i = 0; i < COUNT(pipes); i++)
		must(!pipe2(pipes[i], O_CLOEXEC), "pipe");
	setup = clone3(CLONE_NEWNS, -1, SIGCHLD);
	must(setup >= 0, "clone setup");
	if (!setup)
		be_setup(life);
	for (size_t i = 0; i < COUNT(pipes); i++)
		if (pipes[i] != life->linked)
			close(pipes[i][1]);
	must(read(life->born[0], &life->init, sizeof life->init) == sizeof life->init, "hear of init");
	if (life->veth) {
		snprintf(path, sizeof path, "/proc/%d/ns/net", life->init);
		netns = open(path, O_RDONLY | O_CLOEXEC);
		must(netns >= 0, "open the network namespace");
		link_outside(netns, life->serial);
		close(netns);
		tell(life->linked[1]);
	}
	close(life->linked[1]);
	await_end(setup, "setup");
	for (size_t i = 0; i < COUNT(pipes); i++)
		close(pipes[i][0]);
}

static void remove_all(struct life *life)
{
	char path[600];

	snprintf(path, sizeof path, "%s/exec", life->cgroup);
	remove_cgroup(path);
	snprintf(path, sizeof path, "%s/init", life->cgroup);
	remove_cgroup(path);
	remove_cgroup(life->cgroup);
}

static void whole(struct life *life)
{
	start(life);
	await_end(life->init, "init");
	remove_all(life);
}

static void end(struct life *life)
{
	must(!kill(life->init, SIGKILL) && waitpid(life->init, NULL, __WALL) == life->init, "end init");
	remove_all(life);
}

/* Into the running one, all namespaces at once; what was cloned there is our child, not the joiner's. */
static void execute_in(struct life *life, char *const *argv)
{
	char path[600];
	pid_t joiner, command;
	int cgroup, pidfd;

	snprintf(path, sizeof path, "%s/exec/%u", life->cgroup, life->serial);
	must(!mkdir(path, 0755), "make the command's cgroup");
	cgroup = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	pidfd = syscall(SYS_pidfd_open, life->init, 0);
	joiner = clone3(0, cgroup, SIGCHLD);
	must(joiner >= 0, "clone into the cgroup");
	if (!joiner) {
		machine_limits();
		must(!setns(pidfd, EVERY_NAMESPACE), "enter all namespaces");
		become(0);
		must(!chdir("/"), "chdir");
		command = clone3(CLONE_PARENT, -1, 0);
		must(command >= 0, "clone the command");
		if (command)
			_exit(0);
		setsid();
		confine();
		execute(argv);
	}
	await_end(joiner, "joiner");
	await_end(-1, "command");
	remove_cgroup(path);
	close(pidfd);
	close(cgroup);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void operate(const char *word, unsigned serial)
{
	static char *const init[] = { "/sbin/init", NULL }, *const idle[] = { "/bin/sleep", "inf", NULL };
	char *const probe[] = { "/bin/sh", "-c", getenv("FLOOR_SHOWS"), NULL };
	static struct life staying;
	struct life life = { .serial = serial, .argv = init };

	if (!strcmp(word, "lo")) {
		whole(&life);
	} else if (!strcmp(word, "veth")) {
		life.veth = true;
		whole(&life);
	} else if (!strcmp(word, "show") || !strcmp(word, "look")) {
		life.veth = !strcmp(word, "look");
		life.argv = probe;
		life.shown = true;
		whole(&life);
	} else if (!strcmp(word, "up")) {
		staying = life;
		staying.argv = idle;
		start(&staying);
	} else if (!strcmp(word, "exec")) {
		execute_in(&staying, init);
	} else if (!strcmp(word, "down")) {
		end(&staying);
	} else {
		fprintf(stderr, "floor: there is no %s\n", word);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	char word[16];
	double begun;

	if (argc != 5) {
		fprintf(stderr, "usage: floor TEMPLATE CGROUP SCRATCH FILTERS\n");
		return 2;
	}
	floor_ = (struct floor){ argv[1], argv[2], argv[3], 1000 << 16 };
	load(&device_filter, argv[4], "device.bpf");
	load(&filters[0], argv[4], "pass.bpf");
	load(&filters[1], argv[4], "refuse.bpf");
	most_threads = read_number("/proc/sys/kernel/threads-max");
	if (most_threads > read_number("/proc/sys/kernel/pid_max"))
		most_threads = read_number("/proc/sys/kernel/pid_max");
	for (unsigned serial = 1; scanf("%15s", word) == 1; serial++) {
		begun = now();
		operate(word, serial);
		printf("%.1f\n", now() - begun);
		fflush(stdout);
	}
	return 0;
}
