/* Processes without end: crowd N [DIRECTORY] starts N that wait; crowd bomb N has each fork for ever, N at most.
 *
 * The bomb's processes take turns, too: each third one ends at once, so that no two looks at them see the same pids.
 * Their number is bounded by RLIMIT_NPROC, which counts for a user of the VE: of the host's pids it takes no more.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void wait_for_ever(void)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (;;)
		pause();
}

static void bomb(unsigned long most)
{
	struct rlimit limit = {most, most};
	unsigned long turn = 0;
	sigset_t all;

	if (setrlimit(RLIMIT_NPROC, &limit)) {
		perror("RLIMIT_NPROC");
		exit(1);
	}
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		pid_t pid = fork();
		if (pid < 0 && most) {
			puts("full");
			fflush(stdout);
			close(1);
			most = 0;
		}
		if (pid == 0 && ++turn % 3 == 0)
			_exit(0);
	}
}

int main(int count, char **arguments)
{
	if (count == 3 && !strcmp(arguments[1], "bomb"))
		bomb(strtoul(arguments[2], NULL, 10));
	for (long left = count == 2 ? strtol(arguments[1], NULL, 10) : 0; left > 0; left--) {
		pid_t pid = fork();
		if (pid < 0) {
			perror("fork");
			return 1;
		}
		if (pid == 0) {
			setsid();
			wait_for_ever();
		}
	}
	puts("all");
	fflush(stdout);
	wait_for_ever();
}
