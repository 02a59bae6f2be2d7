/* Tries to get out of a VE, or at what is not the VE's: attack [-n] NAME [WORD...]

   Ends with 0 where the attack worked, 1 where it was refused (and prints the error's name), 2 where it could not be
   tried.  With - in place of NAME it reads lines "LABEL NAME [WORD...]", and answers each by a line "LABEL ANSWER".
   -n tries from nested namespaces, as their root.  A setuid copy becomes the user that it belongs to. */
#include "attack.h"

static const struct attack *const TABLES[] = {ACROSS, GIVEN, KERNEL, FILES, MASKS};

_Noreturn static void answer(int code, const char *word)
{
	printf("%s\n", word);
	fflush(stdout);
	_exit(code);
}

void refused(const char *why)
{
	answer(1, why);
}

void cannot(const char *what)
{
	char text[256];
	snprintf(text, sizeof text, "CANNOT %s: %s", what, strerrorname_np(errno));
	answer(2, text);
}

int need(int result, const char *what)
{
	if (result == -1)
		cannot(what);
	return result;
}

void until_the_witness_has_looked(void)
{
	char line[2];
	puts("READY");
	fflush(stdout);
	need((int)read(STDIN_FILENO, line, sizeof line), "read");
}

int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd == -1)
		return -1;
	int result = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1, error = errno;
	close(fd);
	errno = error;
	return result;
}

void own_mounts(void)
{
	need(unshare(CLONE_NEWNS), "unshare mounts");
	need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "make mounts private");
}

const char *fresh_directory(void)
{
	static char path[4096];
	const char *room = getenv("ATTACK_ROOM");
	snprintf(path, sizeof path, "%s/attack.XXXXXX", room ? room : "/tmp");
	if (!mkdtemp(path))
		cannot("make a directory");
	return path;
}

int in_child(int (*try)(char **), char **words)
{
	int status;
	pid_t child = need(fork(), "fork");
	if (child == 0)
		_exit(try(words) == -1 ? errno : 0);
	need(waitpid(child, &status, 0), "wait");
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
	return errno ? -1 : 0;
}

/* A process that has a user namespace of its own until it is killed; path becomes its directory in /proc. */
pid_t in_user_namespace(char path[64])
{
	char self[16] = "";
	int ready[2];
	need(pipe(ready), "pipe");
	pid_t child = need(fork(), "fork");
	if (child == 0) {
		need(unshare(CLONE_NEWUSER), "unshare");
		need((int)readlink("/proc/self", self, sizeof self), "know its pid in /proc");
		need((int)write(ready[1], self, sizeof self), "tell it");
		pause();
		_exit(0);
	}
	need((int)read(ready[0], self, sizeof self), "wait");
	snprintf(path, 64, "/proc/%s", self);
	return child;
}

_Noreturn static void run(char **words)
{
	alarm(60);
	for (size_t table = 0; table < sizeof TABLES / sizeof *TABLES; table++)
		for (const struct attack *row = TABLES[table]; row->name; row++)
			if (!strcmp(row->name, words[0])) {
				errno = 0;
				if (row->try(words + 1) == 0)
					answer(0, "WORKED");
				answer(1, strerrorname_np(errno));
			}
	errno = ENOSYS;
	cannot(words[0]);
}

static void each_line(void)
{
	static char line[65536];
	while (fgets(line, sizeof line, stdin)) {
		char *words[64] = {0};
		int status, count = 0;
		for (char *word = strtok(line, " \n"); word && count < 63; word = strtok(NULL, " \n"))
			words[count++] = word;
		printf("%s ", words[0]);
		fflush(stdout);
		pid_t child = need(fork(), "fork");
		if (child == 0)
			run(words + 1);
		need(waitpid(child, &status, 0), "wait");
		if (WIFSIGNALED(status))
			printf("SIGNAL %d\n", WTERMSIG(status));
		fflush(stdout);
	}
}

/* From here on: root of a user namespace that owns all namespaces it is in, and PID 1 of them. */
static void nest(void)
{
	char user[64], group[64];
	int status;
	snprintf(user, sizeof user, "0 %d 1", geteuid());
	snprintf(group, sizeof group, "0 %d 1", getegid());
	need(dup2(socket(AF_INET, SOCK_DGRAM, 0), OUTER_SOCKET), "have a socket");
	need(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
		     CLONE_NEWCGROUP),
	     "unshare");
	need(put("/proc/self/setgroups", "deny"), "deny setgroups");
	need(put("/proc/self/uid_map", user), "map its user");
	need(put("/proc/self/gid_map", group), "map its group");
	pid_t child = need(fork(), "fork");
	if (child) {
		need(waitpid(child, &status, 0), "wait");
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
	}
	need(setresgid(0, 0, 0), "be group root");
	need(setresuid(0, 0, 0), "be root");
}

int main(int argc, char **argv)
{
	int nested = argc > 1 && !strcmp(argv[1], "-n");
	if (argc < 2 + nested)
		return 2;
	if (geteuid() != getuid())
		need(setresuid(geteuid(), geteuid(), geteuid()), "become who it belongs to");
	prctl(PR_SET_DUMPABLE, 1); /* setuid has cleared it */
	umask(022);
	signal(SIGUSR1, SIG_IGN);
	if (!strcmp(argv[1], "victim"))
		return victim();
	if (nested)
		nest();
	if (strcmp(argv[1 + nested], "-"))
		run(argv + 1 + nested);
	each_line();
	return 0;
}
