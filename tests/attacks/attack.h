/* What the rooms of this program share.  An attack is a row of a table: it returns 0 where it worked and -1, with errno,
   where it was refused; or it ends by one of the functions here. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct attack {
	const char *name;
	int (*try)(char **words);
};

extern const struct attack ACROSS[], GIVEN[], KERNEL[], FILES[], MASKS[];

enum { OUTER_SOCKET = 100 }; /* of the network namespace that was left for a nested one */

int victim(void);
_Noreturn void refused(const char *why); /* where no errno says it */
_Noreturn void cannot(const char *what); /* it could not be tried */
int need(int result, const char *what);	 /* result, or cannot() */
void until_the_witness_has_looked(void);
int put(const char *path, const char *text);
void own_mounts(void);			/* what is mounted from now on goes with this process */
const char *fresh_directory(void);	/* below $ATTACK_ROOM; removed by who calls the program */
pid_t in_user_namespace(char path[64]);
int in_child(int (*try)(char **), char **words); /* its result, from a process of its own */
