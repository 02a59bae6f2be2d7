/* A file system in user space: fuse DIRECTORY mounts one there, with a file "hello", until it is unmounted.
 *
 * fuse DIRECTORY mute never answers who reads that or opens a directory, and says "asked": then not even SIGKILL ends
 * who waits for it.
 * It speaks the protocol of fuse(4) itself, as <linux/fuse.h> has it, and says "mounted" once the kernel has begun to.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { HELLO = 2 };
static const char text[] = "from user space\n";
static int device, mute;

static void answer(const struct fuse_in_header *in, int error, const void *data, size_t size)
{
	struct fuse_out_header out = {sizeof out + size, error, in->unique};
	struct iovec parts[] = {{&out, sizeof out}, {(void *)data, size}};
	if (writev(device, parts, 2) < 0)
		perror("writev");
}

static struct fuse_attr attributes(uint64_t node)
{
	struct fuse_attr of = {.ino = node, .nlink = 1, .mode = S_IFDIR | 0755};
	if (node == HELLO) {
		of.mode = S_IFREG | 0755;
		of.size = sizeof text - 1;
	}
	return of;
}

static void serve(const struct fuse_in_header *in, const void *argument)
{
	switch (in->opcode) {
	case FUSE_INIT: {
		struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096};
		answer(in, 0, &out, sizeof out);
		puts("mounted");
		fflush(stdout);
		break;
	}
	case FUSE_LOOKUP: {
		struct fuse_entry_out out = {.nodeid = HELLO, .attr = attributes(HELLO)};
		int known = in->nodeid == FUSE_ROOT_ID && !strcmp(argument, "hello");
		answer(in, known ? 0 : -ENOENT, &out, known ? sizeof out : 0);
		break;
	}
	case FUSE_GETATTR: {
		struct fuse_attr_out out = {.attr = attributes(in->nodeid)};
		answer(in, 0, &out, sizeof out);
		break;
	}
	case FUSE_OPEN: {
		struct fuse_open_out out = {.fh = 1};
		answer(in, 0, &out, sizeof out);
		break;
	}
	case FUSE_READ: {
		if (mute) {
			puts("asked");
			fflush(stdout);
			break;
		}
		const struct fuse_read_in *read = argument;
		size_t left = read->offset < sizeof text - 1 ? sizeof text - 1 - read->offset : 0;
		answer(in, 0, text + sizeof text - 1 - left, left < read->size ? left : read->size);
		break;
	}
	case FUSE_OPENDIR:
		if (mute) {
			puts("asked");
			fflush(stdout);
		} else
			answer(in, -ENOSYS, NULL, 0);
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		answer(in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break; /* no answer is wanted */
	default:
		answer(in, -ENOSYS, NULL, 0);
	}
}

int main(int count, char **arguments)
{
	char options[100], request[FUSE_MIN_READ_BUFFER + 4096];
	ssize_t length;

	device = open("/dev/fuse", O_RDWR);
	mute = count == 3 && !strcmp(arguments[2], "mute");
	if (count < 2 || device < 0) {
		perror("/dev/fuse");
		return 1;
	}
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
	if (mount("hello", arguments[1], "fuse", MS_NOSUID | MS_NODEV, options)) {
		perror("mount");
		return 2;
	}
	while ((length = read(device, request, sizeof request)) > 0 || errno == EINTR)
		if (length > 0)
			serve((void *)request, request + sizeof(struct fuse_in_header));
	return errno == ENODEV ? 0 : 3; /* which is that it was unmounted */
}
