/* Whom nothing from inside a VE may reach: it has one of everything, says where, and tells for each whether it was
   touched.  For every line that it reads it prints a report; at the end of its input it takes all away again. */
#include "attack.h"
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pty.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/un.h>

static volatile sig_atomic_t signals, sigios;
static volatile long words[3]; /* for ptrace, process_vm_writev and /proc/PID/mem */

static void count(int number)
{
	if (number == SIGIO)
		sigios++;
	else
		signals++;
}

static int listening(int family, struct sockaddr *address, socklen_t length)
{
	int fd = need(socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0), "have a socket");
	need(bind(fd, address, length), "bind");
	need(listen(fd, 8), "listen");
	return fd;
}

static int accepted(int fd)
{
	int found = 0;
	for (int each; (each = accept(fd, NULL, NULL)) != -1; found++)
		close(each);
	return found;
}

static void counts(int number)
{
	struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
	need(sigaction(number, &action, NULL), "catch a signal");
}

int victim(void)
{
	int master, slave, port_size = sizeof(struct sockaddr_in), connections = 0, calls = 0;
	char line[64], name[64];
	counts(SIGUSR1), counts(SIGUSR2), counts(SIGIO);
	/* System V IPC, POSIX queue */
	key_t key = 0x7e000000 | getpid();
	int shm = need(shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0666), "have shared memory");
	char *shared = shmat(shm, NULL, 0);
	int sem = need(semget(key, 1, IPC_CREAT | IPC_EXCL | 0666), "have a semaphore");
	int msg = need(msgget(key, IPC_CREAT | IPC_EXCL | 0666), "have a queue");
	snprintf(name, sizeof name, "/ve-victim-%d", getpid());
	mqd_t mq = need(mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0666, NULL), "have a POSIX queue");
	/* sockets */
	struct sockaddr_un abstract = {.sun_family = AF_UNIX};
	strcpy(abstract.sun_path + 1, name);
	int abstract_fd = listening(AF_UNIX, (struct sockaddr *)&abstract,
				    (socklen_t)(sizeof abstract.sun_family + 1 + strlen(name)));
	struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int tcp_fd = listening(AF_INET, (struct sockaddr *)&tcp, sizeof tcp);
	need(getsockname(tcp_fd, (struct sockaddr *)&tcp, (socklen_t *)&port_size), "know its port");
	/* a terminal */
	need(openpty(&master, &slave, NULL, NULL, NULL), "have a terminal");
	need(fcntl(master, F_SETFL, O_NONBLOCK), "not wait for it");
	const char *terminal = ttyname(slave);

	printf("word0=%#lx word1=%#lx word2=%#lx key=%d mq=%s port=%d terminal=%s\n", (long)&words[0], (long)&words[1],
	       (long)&words[2], key, name, ntohs(tcp.sin_port), terminal ? terminal : "/dev/pts/none");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		struct msqid_ds queue;
		struct mq_attr attr;
		struct rlimit core;
		cpu_set_t cpus;
		char domain[64];
		connections += accepted(tcp_fd), calls += accepted(abstract_fd);
		msgctl(msg, IPC_STAT, &queue), mq_getattr(mq, &attr);
		getrlimit(RLIMIT_CORE, &core), sched_getaffinity(0, sizeof cpus, &cpus);
		getdomainname(domain, sizeof domain);
		printf("signals=%d sigios=%d word0=%ld word1=%ld word2=%ld shm=%d sem=%d msg=%d mq=%d tcp=%d abstract=%d "
		       "terminal=%d nice=%d core=%ld cpus=%d scheduler=%d io=%ld domain=%s\n",
		       signals, sigios, words[0], words[1], words[2], shared[0], semctl(sem, 0, GETVAL),
		       (int)queue.msg_qnum, (int)attr.mq_curmsgs, connections, calls, read(master, line, 64) > 0,
		       getpriority(PRIO_PROCESS, 0), (long)core.rlim_cur, CPU_COUNT(&cpus), sched_getscheduler(0),
		       syscall(SYS_ioprio_get, 1, 0), domain);
		fflush(stdout);
	}
	shmctl(shm, IPC_RMID, NULL), semctl(sem, 0, IPC_RMID), msgctl(msg, IPC_RMID, NULL), mq_unlink(name);
	return 0;
}
