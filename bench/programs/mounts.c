/* The root of the container, mount by mount as ve/mounts.py and ve/setup.py have it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "floor.h"

#define DATA_ONLY (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static const char *const read_only[] = { "proc/sys", "proc/sysrq-trigger", "proc/irq",
					 "proc/bus", "proc/fs",		   "proc/pressure" };
static const char *const masked[] = {
	"proc/kcore",	     "proc/keys",	 "proc/key-users",  "proc/kallsyms", "proc/modules",
	"proc/config.gz",    "proc/timer_list",	 "proc/sched_debug", "proc/latency_stats", "proc/acpi",
	"proc/asound",	     "proc/scsi",	 "sys/firmware",    "sys/devices/virtual/powercap",
};
static const struct {
	const char *name;
	unsigned major, minor;
} devices[] = { { "null", 1, 3 }, { "zero", 1, 5 },    { "full", 1, 7 },
		{ "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 } };
static const char *const links[][2] = {
	{ "/proc/self/fd", "dev/fd" },	      { "/proc/self/fd/0", "dev/stdin" }, { "/proc/self/fd/1", "dev/stdout" },
	{ "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" },
};

static void mount_at(const char *what, const char *where, const char *type, unsigned long flags, const char *data)
{
	must(!mount(what, where, type, flags, data), where);
}

/* The template through the container's ids, and a tmpfs that is its root's for what it changes. */
void mount_union(const struct floor *floor, int userns)
{
	struct mount_attr map = { .attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_IDMAP, .userns_fd = userns };
	struct statvfs made;
	int tree;

	must(!mkdir("template", 0755) && !mkdir("private", 0755) && !mkdir("root", 0755), "make layers");
	tree = syscall(SYS_open_tree, AT_FDCWD, floor->template, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	must(tree >= 0, "open_tree");
	must(!syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &map, sizeof map), "mount_setattr");
	must(!syscall(SYS_move_mount, tree, "", AT_FDCWD, "template", MOVE_MOUNT_F_EMPTY_PATH), "move_mount");
	close(tree);
	must(!mkdir("private/upper", 0755) && !mkdir("private/work", 0700), "make upper");
	mount_at("overlay", "root", "overlay", MS_NODEV,
		 "lowerdir=template,upperdir=private/upper,workdir=private/work,index=on,redirect_dir=on,xino=auto");
	must(!statvfs("root", &made) && !(made.f_flag & ST_RDONLY), "overlay went read-only");
	must(!chdir("root"), "chdir root");
}

static void remount_read_only(const char *path)
{
	mount_at(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | DATA_ONLY, NULL);
}

static void mask(const char *path)
{
	struct stat at;

	if (lstat(path, &at))
		return;
	if (S_ISDIR(at.st_mode))
		mount_at("tmpfs", path, "tmpfs", MS_RDONLY | DATA_ONLY, "size=0,mode=555");
	else
		mount_at("dev/null", path, NULL, MS_BIND, NULL);
}

static void boot_id(void)
{
	static const char place[] = "proc/sys/kernel/random/boot_id";
	char uuid[64];
	int from = open("proc/sys/kernel/random/uuid", O_RDONLY), to = open("dev/boot_id", O_WRONLY | O_CREAT, 0644);
	ssize_t size = read(from, uuid, sizeof uuid);

	must(size > 0 && write(to, uuid, size) == size, "boot_id");
	close(from);
	close(to);
	mount_at("dev/boot_id", place, NULL, MS_BIND, NULL);
	unlink("dev/boot_id");
	remount_read_only(place);
}

/* In the new root, in the container's pid, net and ipc namespaces, while the mounts are the host's: then pivot. */
void mount_protected(const struct floor *floor)
{
	char options[64], path[32];

	mount_at("proc", "proc", "proc", DATA_ONLY, NULL);
	mount_at("sysfs", "sys", "sysfs", DATA_ONLY | MS_RDONLY, NULL);
	snprintf(options, sizeof options, "mode=755,size=4m,uid=%u,gid=%u", floor->base, floor->base);
	mount_at("tmpfs", "dev", "tmpfs", MS_NOSUID, options);
	for (size_t i = 0; i < COUNT(devices); i++) {
		snprintf(path, sizeof path, "dev/%s", devices[i].name);
		must(!mknod(path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)), path);
		chmod(path, 0666);
	}
	for (size_t i = 0; i < COUNT(links); i++)
		must(!symlink(links[i][0], links[i][1]), links[i][1]);
	must(!mkdir("dev/pts", 0755) && !mkdir("dev/shm", 0755) && !mkdir("dev/mqueue", 0755), "make /dev");
	for (size_t i = 0; i < COUNT(read_only); i++) {
		if (access(read_only[i], F_OK))
			continue;
		mount_at(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL);
		remount_read_only(read_only[i]);
	}
	for (size_t i = 0; i < COUNT(masked); i++)
		mask(masked[i]);
	boot_id();
	must(!syscall(SYS_pivot_root, ".", "."), "pivot_root");
	must(!umount2(".", MNT_DETACH), "umount of the old root");
}

/* As init, in the mount namespace of its own: what it may unmount again. */
void mount_own(void)
{
	mount_at(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	mount_at(NULL, "/", NULL, MS_REC | MS_SHARED, NULL);
	mount_at("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		 "newinstance,ptmxmode=0666,mode=620,gid=5");
	mount_at("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_at("mqueue", "/dev/mqueue", "mqueue", DATA_ONLY, NULL);
	mount_at("cgroup2", "/sys/fs/cgroup", "cgroup2", DATA_ONLY, NULL);
	mkdir("/run", 0755);
	mount_at("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
}
