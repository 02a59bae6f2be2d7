/* Makes one system call and prints its result, or the name of its error: probe [-32] NUMBER [ARGUMENT...]
   -32 takes the way of 32-bit programs, with their numbers; an argument is a number, or @TEXT for a pointer to TEXT. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long argument(const char *text)
{
	return *text == '@' ? (long)(text + 1) : strtol(text, NULL, 0);
}

int main(int argc, char **argv)
{
	int narrow = argc > 1 && !strcmp(argv[1], "-32");
	long arguments[7] = {0}, result;
	for (int i = 1 + narrow; i < argc && i < 8 + narrow; i++)
		arguments[i - 1 - narrow] = argument(argv[i]);
#ifdef __x86_64__
	if (narrow) {
		asm volatile("int $0x80" : "=a"(result)
			     : "a"(arguments[0]), "b"(arguments[1]), "c"(arguments[2]), "d"(arguments[3])
			     : "memory", "r8", "r9", "r10", "r11");
		if (result < 0) {
			errno = -result;
			result = -1;
		}
	} else
#endif
		result = syscall(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]);
	if (result == -1)
		puts(strerrorname_np(errno));
	else
		printf("%ld\n", result);
	return 0;
}
