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
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"

#define EVERY_NAMESPACE                                                                                       \
	(CLONE_NEWTIME | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | \
	 CLONE_NEWCGROUP)

struct floor floor_;
struct program device_filter, filters[2];

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

void tell(int pipe_end)
{
	must(write(pipe_end, "x", 1) == 1, "tell");
}

void await(int pipe_end)
{
	char byte;

	if (read(pipe_end, &byte, 1) != 1)
		_exit(1); /* who should have said so has failed, and told why itself */
}

pid_t clone3(uint64_t flags, int cgroup, int exit_signal)
{
	struct clone_args how = { .flags = flags, .exit_signal = exit_signal };

	if (cgroup >= 0) {
		how.flags |= CLONE_INTO_CGROUP;
		how.cgroup = cgroup;
	}
	return syscall(SYS_clone3, &how, sizeof how);
}

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
	floor_ = (struct floor){ argv[1], argv[2], argv[3], 1000 << 16, 0 };
	load(&device_filter, argv[4], "device.bpf");
	load(&filters[0], argv[4], "pass.bpf");
	load(&filters[1], argv[4], "refuse.bpf");
	floor_.most_threads = read_number("/proc/sys/kernel/threads-max");
	if (floor_.most_threads > read_number("/proc/sys/kernel/pid_max"))
		floor_.most_threads = read_number("/proc/sys/kernel/pid_max");
	for (unsigned serial = 1; scanf("%15s", word) == 1; serial++) {
		begun = now();
		operate(word, serial);
		printf("%.1f\n", now() - begun);
		fflush(stdout);
	}
	return 0;
}
