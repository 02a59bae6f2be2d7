/* What an idle container has as its init: one process that waits for its end. */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
