/* At another's processes, IPC objects, sockets and terminal. */
#include "attack.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <linux/kcmp.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>

static pid_t whom(char **words)
{
	return atoi(words[0]);
}

/* ---- processes ----------------------------------------------------------------------------------------------------- */

static int see(char **words)
{
	char path[300], text[4096];
	DIR *proc = opendir("/proc");
	for (struct dirent *entry; proc && (entry = readdir(proc));) {
		snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t size = fd == -1 ? 0 : read(fd, text, sizeof text);
		close(fd);
		if (size > 0 && memmem(text, (size_t)size, words[0], strlen(words[0])) && atoi(entry->d_name) != getpid())
			return 0;
	}
	errno = ESRCH;
	return -1;
}

static int try_kill(char **words)
{
	return kill(whom(words), SIGUSR1);
}

static int try_tgkill(char **words)
{
	return (int)syscall(SYS_tgkill, whom(words), whom(words), SIGUSR1);
}

static int queue_signal(char **words)
{
	return sigqueue(whom(words), SIGUSR1, (union sigval){0});
}

static int pidfd_signal(char **words)
{
	int fd = (int)syscall(SYS_pidfd_open, whom(words), 0);
	return fd == -1 ? -1 : (int)syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0);
}

static int pidfd_take(char **words)
{
	int fd = (int)syscall(SYS_pidfd_open, whom(words), 0);
	return fd == -1 || syscall(SYS_pidfd_getfd, fd, 0, 0) == -1 ? -1 : 0;
}

static int join_it(char **words)
{
	int fd = (int)syscall(SYS_pidfd_open, whom(words), 0);
	return fd == -1 ? -1 : setns(fd, CLONE_NEWUTS | CLONE_NEWNET);
}

static int trace(char **words)
{
	pid_t pid = whom(words);
	int status;
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) == -1)
		return -1;
	need((int)ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), "interrupt it");
	need(waitpid(pid, &status, __WALL), "wait for it");
	return (int)ptrace(PTRACE_POKEDATA, pid, (void *)strtol(words[1], NULL, 0), (void *)1);
}

static int write_memory(char **words)
{
	long one = 1;
	struct iovec here = {&one, sizeof one}, there = {(void *)strtol(words[1], NULL, 0), sizeof one};
	return process_vm_writev(whom(words), &here, 1, &there, 1, 0) == -1 ? -1 : 0;
}

static int memory_file(char **words)
{
	char path[64];
	long one = 1;
	snprintf(path, sizeof path, "/proc/%d/mem", whom(words));
	int fd = open(path, O_WRONLY);
	return fd == -1 || pwrite(fd, &one, sizeof one, strtol(words[1], NULL, 0)) == -1 ? -1 : 0;
}

static int compare(char **words)
{
	return syscall(SYS_kcmp, getpid(), whom(words), KCMP_VM, 0, 0) == -1 ? -1 : 0;
}

static int limit(char **words)
{
	struct rlimit one = {1, 1};
	return prlimit(whom(words), RLIMIT_CORE, &one, NULL);
}

static int bind_to_a_cpu(char **words)
{
	cpu_set_t first;
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	return sched_setaffinity(whom(words), sizeof first, &first);
}

static int slow_down(char **words)
{
	return setpriority(PRIO_PROCESS, (id_t)whom(words), 5);
}

static int schedule(char **words)
{
	return sched_setscheduler(whom(words), SCHED_BATCH, &(struct sched_param){0});
}

static int slow_io(char **words)
{
	return (int)syscall(SYS_ioprio_set, 1, whom(words), 2 << 13 | 7);
}

static int its_files(char **words)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", whom(words), words[1]);
	return open(path, O_RDONLY) == -1 ? -1 : 0;
}

static int kill_all(char **words)
{
	(void)words;
	return kill(-1, SIGUSR1);
}

/* A process that loses its parent, and one that never had a parent in the VE: each says its number, and stays. */
static int leave_a_process(long flags)
{
	pid_t child = need((int)syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0), "clone");
	if (child == 0) {
		need((int)syscall(SYS_close_range, 0, ~0U, 0), "let go of its output");
		pause();
		_exit(0);
	}
	printf("%d ", child);
	return 0;
}

static int leave_an_orphan(char **words)
{
	(void)words;
	return leave_a_process(0);
}

static int leave_a_sibling(char **words)
{
	(void)words;
	return leave_a_process(CLONE_PARENT);
}

/* That one of its own gets SIGIO for what it does itself is no attack; that another gets it is. */
static int own_a_socket(char **words)
{
	int ends[2];
	need(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "have a socket pair");
	if (fcntl(ends[0], F_SETOWN, whom(words)) == -1 || fcntl(ends[0], F_SETFL, O_ASYNC) == -1)
		return -1;
	return write(ends[1], "x", 1) == 1 ? 0 : -1;
}

/* ---- IPC ----------------------------------------------------------------------------------------------------------- */

static int shared_memory(char **words)
{
	int id = shmget(atoi(words[0]), 0, 0);
	char *at = id == -1 ? (char *)-1 : shmat(id, NULL, 0);
	if (at == (char *)-1)
		return -1;
	at[0] = 1;
	return 0;
}

static int semaphore(char **words)
{
	int id = semget(atoi(words[0]), 0, 0);
	return id == -1 ? -1 : semop(id, &(struct sembuf){0, 1, 0}, 1);
}

static int message_queue(char **words)
{
	long message[2] = {1, 1};
	int id = msgget(atoi(words[0]), 0);
	return id == -1 ? -1 : msgsnd(id, message, sizeof(long), IPC_NOWAIT);
}

static int posix_queue(char **words)
{
	mqd_t queue = mq_open(words[0], O_WRONLY);
	return queue == -1 ? -1 : mq_send(queue, "x", 1, 0);
}

/* Another's objects by their number, which needs no key. */
static int shared_memory_by_number(char **words)
{
	(void)words;
	struct shm_info info;
	struct shmid_ds about;
	int last = shmctl(0, SHM_INFO, (struct shmid_ds *)&info);
	for (int index = 0; index <= last; index++)
		if (shmctl(index, SHM_STAT_ANY, &about) != -1)
			return 0;
	errno = ENOENT;
	return -1;
}

/* ---- sockets ------------------------------------------------------------------------------------------------------- */

static int abstract(char **words)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path + 1, words[0]);
	int fd = need(socket(AF_UNIX, SOCK_STREAM, 0), "have a socket");
	return connect(fd, (struct sockaddr *)&address,
		       (socklen_t)(sizeof address.sun_family + 1 + strlen(words[0])));
}

static int loopback(char **words)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	address.sin_port = htons((uint16_t)atoi(words[0]));
	int fd = need(socket(AF_INET, SOCK_STREAM, 0), "have a socket");
	return connect(fd, (struct sockaddr *)&address, sizeof address);
}

static int family(char **words)
{
	return socket(atoi(words[0]), atoi(words[1]), 0) == -1 ? -1 : 0;
}

/* The audit system's status, which only the host's root may have. */
static int audit(char **words)
{
	(void)words;
	struct {
		struct nlmsghdr head;
		char rest[1024];
	} ask = {.head = {.nlmsg_len = sizeof(struct nlmsghdr), .nlmsg_type = 1000, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK}};
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	if (fd == -1 || sendto(fd, &ask, ask.head.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof kernel) == -1)
		return -1;
	if (recv(fd, &ask, sizeof ask, 0) == -1)
		return -1;
	errno = ask.head.nlmsg_type == NLMSG_ERROR ? -((struct nlmsgerr *)NLMSG_DATA(&ask.head))->error : 0;
	return errno ? -1 : 0;
}

/* Process events of the whole machine. */
static int connector(char **words)
{
	(void)words;
	struct sockaddr_nl group = {.nl_family = AF_NETLINK, .nl_groups = 1};
	char message[64] = {0};
	int fd = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_CONNECTOR);
	if (fd == -1 || bind(fd, (struct sockaddr *)&group, sizeof group) == -1)
		return -1;
	struct nlmsghdr *head = (struct nlmsghdr *)message;
	head->nlmsg_len = 40, head->nlmsg_type = NLMSG_DONE;
	*(uint32_t *)(message + 16) = 1, *(uint32_t *)(message + 20) = 1; /* CN_IDX_PROC, CN_VAL_PROC */
	*(uint16_t *)(message + 32) = 4, *(uint32_t *)(message + 36) = 2; /* PROC_CN_MCAST_IGNORE */
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	return sendto(fd, message, 40, 0, (struct sockaddr *)&kernel, sizeof kernel) == -1 ? -1 : 0;
}

/* ---- terminals ----------------------------------------------------------------------------------------------------- */

static int type(int fd)
{
	return fd == -1 ? -1 : write(fd, "x\n", 2) == 2 ? 0 : -1;
}

static int terminal(char **words)
{
	return type(open(words[0], O_WRONLY | O_NOCTTY));
}

static int terminal_by_node(char **words)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/node", fresh_directory());
	if (mknod(path, S_IFCHR | 0666, (dev_t)136 << 8 | (dev_t)atoi(words[0])) == -1)
		return -1;
	return type(open(path, O_WRONLY | O_NOCTTY));
}

static int terminal_by_devpts(char **words)
{
	char path[4200];
	own_mounts();
	const char *at = fresh_directory();
	need(mount("devpts", at, "devpts", 0, NULL), "mount devpts");
	snprintf(path, sizeof path, "%s/%s", at, words[0]);
	return type(open(path, O_WRONLY | O_NOCTTY));
}

const struct attack ACROSS[] = {
	{"see", see},
	{"kill", try_kill},
	{"kill-all", kill_all},
	{"tgkill", try_tgkill},
	{"sigqueue", queue_signal},
	{"pidfd-signal", pidfd_signal},
	{"pidfd-getfd", pidfd_take},
	{"pidfd-setns", join_it},
	{"ptrace", trace},
	{"process_vm_writev", write_memory},
	{"memory-file", memory_file},
	{"kcmp", compare},
	{"prlimit", limit},
	{"affinity", bind_to_a_cpu},
	{"priority", slow_down},
	{"scheduler", schedule},
	{"ioprio", slow_io},
	{"proc", its_files},
	{"orphan", leave_an_orphan},
	{"sibling", leave_a_sibling},
	{"sigio", own_a_socket},
	{"shm", shared_memory},
	{"shm-number", shared_memory_by_number},
	{"sem", semaphore},
	{"msg", message_queue},
	{"mq", posix_queue},
	{"abstract", abstract},
	{"loopback", loopback},
	{"family", family},
	{"audit", audit},
	{"connector", connector},
	{"terminal", terminal},
	{"terminal-node", terminal_by_node},
	{"terminal-devpts", terminal_by_devpts},
	{0},
};
