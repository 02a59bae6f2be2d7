/* Takes of one resource until it is refused or has N: eat RESOURCE N [hold]
   Prints how many it has and the error that ended it ("0" if none), then holds them until its stdin ends. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static int memory(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return -1;
	*page = 1;
	return 0;
}

static int mapped(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return page == MAP_FAILED ? -1 : 0;
}

static int process(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	return pid < 0 ? -1 : 0;
}

static int shared(void)
{
	int id = shmget(IPC_PRIVATE, PAGE, 0600 | IPC_CREAT);
	if (id < 0 || shmat(id, NULL, 0) == (void *)-1)
		return -1;
	return shmctl(id, IPC_RMID, NULL); /* it goes with us */
}

static int pty(void)
{
	return posix_openpt(O_RDWR | O_NOCTTY) < 0 ? -1 : 0;
}

static int queued(void)
{
	union sigval value = {0};
	return sigqueue(getpid(), SIGRTMIN, value);
}

static int locked(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return page == MAP_FAILED ? -1 : mlock(page, PAGE);
}

static int file(void)
{
	return open("/dev/null", O_RDONLY) < 0 ? -1 : 0;
}

static const struct {
	const char *name;
	int (*take)(void);
} RESOURCES[] = {
	{"memory", memory}, {"mapped", mapped}, {"process", process}, {"shared", shared},
	{"pty", pty},	    {"queued", queued}, {"locked", locked},   {"file", file},
};

int main(int argc, char **argv)
{
	long most = argc > 2 ? atol(argv[2]) : 0, has = 0;
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	for (size_t i = 0; i < sizeof RESOURCES / sizeof *RESOURCES; i++) {
		if (argc < 2 || strcmp(argv[1], RESOURCES[i].name))
			continue;
		errno = 0;
		while (has < most && RESOURCES[i].take() == 0)
			has++;
		printf("%ld %s\n", has, has < most ? strerrorname_np(errno) : "0");
		fflush(stdout);
		if (argc > 3)
			while (getchar() != EOF)
				;
		signal(SIGTERM, SIG_IGN);
		kill(0, SIGTERM);
		while (wait(NULL) > 0)
			;
		return 0;
	}
	return 2;
}
