/* Attacks on what enters a VE, run inside it.  As /sbin/init it does what its file /attack says; else its first argument.

   catch COMM    wait for a process whose name begins so, stop it, try everything on it as we are and as user 1000, let
		 it go, and end
   sleep COMM    call oneself so, and do nothing: somebody to be caught whom nothing protects
   facts         all that a program has of who started it, a line each
   swap A B      exchange two names for ever
   long MIB	 claim a command line of so many MiB, which takes no memory
   euid	         print it
   name, stop, unmapped   inits: one with an odd name; one that stops whoever comes; one in a user namespace without ids */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void tell(const char *who, const char *what, long result)
{
	printf("%s %s %s\n", who, what, result < 0 ? strerrorname_np(errno) : "done");
	fflush(stdout);
}

/* ---- somebody who enters ---- */

static long opened(int pid, const char *name, int flags)
{
	char path[PATH_MAX], byte;
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int fd = open(path, flags);
	if (fd < 0)
		return -1;
	return flags == O_RDONLY && strcmp(name, "mem") ? read(fd, &byte, 1) : 0;
}

static long linked(int pid, const char *name)
{
	char path[PATH_MAX], target[PATH_MAX];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	return readlink(path, target, sizeof target);
}

static long listed(int pid)
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	return opendir(path) ? 0 : -1;
}

static void attack(const char *who, int pid)
{
	char here[8];
	struct iovec local = {here, sizeof here}, remote = {(void *)environ, sizeof here};
	int pidfd = syscall(SYS_pidfd_open, pid, 0);
	tell(who, "mem", opened(pid, "mem", O_RDONLY));
	tell(who, "mem-write", opened(pid, "mem", O_RDWR));
	tell(who, "environ", opened(pid, "environ", O_RDONLY));
	tell(who, "maps", opened(pid, "maps", O_RDONLY));
	tell(who, "auxv", opened(pid, "auxv", O_RDONLY));
	tell(who, "exe", opened(pid, "exe", O_RDONLY));
	tell(who, "exe-name", linked(pid, "exe"));
	tell(who, "cwd", linked(pid, "cwd"));
	tell(who, "root", linked(pid, "root"));
	tell(who, "ns", linked(pid, "ns/mnt"));
	tell(who, "fd", linked(pid, "fd/0"));
	tell(who, "fds", listed(pid));
	tell(who, "getfd", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
	tell(who, "kcmp", syscall(SYS_kcmp, getpid(), pid, 1, 0, 0)); /* KCMP_VM */
	tell(who, "readv", process_vm_readv(pid, &local, 1, &remote, 1, 0) < 0 && errno != EFAULT ? -1 : 0);
	tell(who, "seize", ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 ? -1 : ptrace(PTRACE_INTERRUPT, pid, 0, 0) * 0);
}

static int is_called(int pid, const char *wanted)
{
	char path[64], name[32] = "";
	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, name, sizeof name - 1);
	close(fd);
	return got > 0 && !strncmp(name, wanted, strlen(wanted));
}

/* A signal is only sent by kill(2): until the process has stopped it goes on, and may be another program by then. */
static int stop(int pid)
{
	char path[64], line[512], state;
	if (kill(pid, SIGSTOP) < 0)
		return 0;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	do {
		FILE *file = fopen(path, "r");
		char *end = file && fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
		if (file)
			fclose(file);
		state = end ? end[2] : 'X';
	} while (!strchr("TtZX", state));
	return state == 'T' || state == 't';
}

static int next_called(const char *wanted)
{
	for (;;) {
		DIR *proc = opendir("/proc");
		for (struct dirent *entry; (entry = readdir(proc));)
			if (atoi(entry->d_name) > 1 && is_called(atoi(entry->d_name), wanted)) {
				int pid = atoi(entry->d_name);
				closedir(proc);
				return pid;
			}
		closedir(proc);
	}
}

static int catch(const char *wanted)
{
	puts("ready");
	fflush(stdout);
	int pid;
	do
		pid = next_called(wanted);
	while (!stop(pid) || (!is_called(pid, wanted) && (kill(pid, SIGCONT), 1)));
	pid_t user = fork();
	if (!user) {
		if (setgid(1000) || setuid(1000))
			_exit(1);
		attack("user", pid);
		_exit(0);
	}
	waitpid(user, NULL, 0);
	attack("root", pid);
	kill(pid, SIGCONT);
	return 0;
}

/* ---- what a program has of who started it ---- */

static void show(const char *name)
{
	char text[65536];
	FILE *file = fopen(name, "r");
	size_t got = file ? fread(text, 1, sizeof text - 1, file) : 0;
	text[got] = 0;
	if (file)
		fclose(file);
	printf("%s %s\n", name, strtok(text, "\n") ?: "");
}

static void facts(void)
{
	char path[PATH_MAX], target[PATH_MAX];
	int groups[64], death = 0;
	struct rlimit limit;
	cpu_set_t cpus;
	for (char **each = environ; *each; each++)
		printf("env-%s\n", *each);
	printf("cwd %s\n", getcwd(path, sizeof path) ?: "");
	printf("umask %o\n", umask(0));
	printf("groups");
	for (int i = 0, n = getgroups(64, (gid_t *)groups); i < n; i++)
		printf(" %d", groups[i]);
	printf("\nnice %d\n", getpriority(PRIO_PROCESS, 0));
	printf("policy %d\n", sched_getscheduler(0));
	sched_getaffinity(0, sizeof cpus, &cpus);
	printf("cpus %d\n", CPU_COUNT(&cpus));
	printf("ioprio %ld\n", syscall(SYS_ioprio_get, 1, 0));
	printf("personality %x\n", personality(0xffffffff));
	printf("slack %d\n", prctl(PR_GET_TIMERSLACK));
	printf("thp %d\n", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	printf("securebits %d\n", prctl(PR_GET_SECUREBITS));
	printf("dumpable %d\n", prctl(PR_GET_DUMPABLE));
	prctl(PR_GET_PDEATHSIG, &death);
	printf("death %d\n", death);
	int tty = open("/dev/tty", O_RDWR);
	printf("tty %d\n", tty < 0);
	close(tty);
	printf("leader %d\n", getsid(0) == getpid());
	show("/proc/self/oom_score_adj");
	show("/proc/self/coredump_filter");
	for (int i = 0; i < 16; i++)
		if (!getrlimit(i, &limit))
			printf("rlimit-%d %ld %ld\n", i, (long)limit.rlim_cur, (long)limit.rlim_max);
	FILE *status = fopen("/proc/self/status", "r");
	while (fgets(path, sizeof path, status))
		if (!strncmp(path, "Sig", 3) && strncmp(path, "SigQ", 4))
			printf("%s", path);
	fclose(status);
	for (int fd = 3; fd < 4096; fd++) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(path, target, sizeof target - 1);
		if (length > 0 && !(target[length] = 0))
			printf("fd-%d %s\n", fd, target);
	}
}

/* ---- more ---- */

static void swap(const char *one, const char *other)
{
	puts("ready");
	fflush(stdout);
	for (;;)
		renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE);
}

static void long_line(size_t size)
{
	struct prctl_mm_map map = {.exe_fd = -1};
	unsigned long long field[64] = {0};
	char stat[4096], *at;
	char *line = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	FILE *file = fopen("/proc/self/stat", "r");
	stat[fread(stat, 1, sizeof stat - 1, file)] = 0;
	at = strrchr(stat, ')') + 4; /* proc_pid_stat(5): the fields from the fourth on */
	for (int i = 4; i < 60 && at; i++)
		field[i] = strtoull(at, &at, 10);
	map.start_code = field[26], map.end_code = field[27], map.start_stack = field[28];
	map.start_data = field[45], map.end_data = field[46], map.start_brk = field[47];
	map.env_start = field[50], map.env_end = field[51], map.brk = (unsigned long)sbrk(0);
	memset(line, 'x', 1 << 20);
	memcpy(line, "huge", 4);
	map.arg_start = (unsigned long)line, map.arg_end = map.arg_start + size - 1;
	tell("self", "long", prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0));
	for (;;)
		pause();
}

static void init(const char *how)
{
	if (!strcmp(how, "name"))
		prctl(PR_SET_NAME, "a\rCapBnd:\t0\x0b");
	if (!strcmp(how, "unmapped"))
		unshare(CLONE_NEWUSER);
	puts("ready");
	fflush(stdout);
	for (;;)
		if (!strcmp(how, "stop"))
			kill(-1, SIGSTOP);
		else
			pause();
}

int main(int argc, char **argv)
{
	char how[32] = "";
	const char *what = argc > 1 ? argv[1] : "", *one = argc > 2 ? argv[2] : "", *two = argc > 3 ? argv[3] : "";
	if (getpid() == 1 && argc == 1) {
		FILE *file = fopen("/attack", "r");
		if (!file || !fgets(how, sizeof how, file))
			return 1;
		init(how);
	}
	if (!strcmp(what, "catch"))
		return catch(one);
	if (!strcmp(what, "swap"))
		swap(one, two);
	if (!strcmp(what, "long"))
		long_line(strtoul(one, NULL, 10) << 20);
	if (!strcmp(what, "facts"))
		return facts(), 0;
	if (!strcmp(what, "euid"))
		return printf("%d\n", geteuid()), 0;
	if (!strcmp(what, "sleep")) {
		prctl(PR_SET_NAME, one);
		puts("ready");
		fflush(stdout);
		for (;;)
			pause();
	}
	return 2;
}
