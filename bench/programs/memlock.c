/*
 * For crun 1.8, which ends where it may not raise RLIMIT_MEMLOCK, as in a container without CAP_SYS_RESOURCE, though no
 * kernel since 5.11 counts BPF programs by it.  Preloaded there and nowhere else; it costs what loading it costs.
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int setrlimit(__rlimit_resource_t which, const struct rlimit *to)
{
	if (which == RLIMIT_MEMLOCK)
		return 0;
	return syscall(SYS_prlimit64, 0, which, to, NULL);
}
