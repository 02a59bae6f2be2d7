/*
 * The two processes between us and the container's init, step by step as ve/setup.py and ve/init.py have them: setup,
 * which stays on the host, and init, which setup clones.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"

static const int dropped[] = { CAP_NET_ADMIN, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_NICE, CAP_SYS_TIME };
static const char *const limited_namespaces[] = { "time", "user", "pid", "uts", "ipc", "net", "cgroup", "mnt" };

void become(unsigned id)
{
	must(!setgroups(0, NULL), "setgroups");
	must(!setresgid(id, id, id) && !setresuid(id, id, id), "change ids");
	prctl(PR_SET_DUMPABLE, 0);
}

/* On every way in, as ve/confinement.py. */
void confine(void)
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

_Noreturn void execute(char *const *argv)
{
	static char *const environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
					     "HOME=/root", "USER=root", "container=ve", NULL };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(argv[0], argv, environment);
	must(false, argv[0]);
	_exit(1);
}

static _Noreturn void be_init(struct life *life)
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

void machine_limits(void)
{
	const rlim_t threads = floor_.most_threads / 2;
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
_Noreturn void be_setup(struct life *life)
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
