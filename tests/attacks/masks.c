/* At what is mounted over files to hide them or to keep them from being written: it worked if a way was found to
   read what is hidden, or to open for writing what is read only. */
#include "attack.h"
#include <linux/mount.h>

#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x200
#endif

/* The words: the mount below, what is covered in it, what is wanted in it, "read" or "write", and what fresh() mounts. */
enum { TOP, COVERED, WANTED, ACCESS, KIND, OPTIONS };

static int reached(int at, const char *rest, const char *what)
{
	char text[4096];
	int fd = openat(at, *rest ? rest : ".", *what == 'w' ? O_WRONLY : O_RDONLY);
	if (fd == -1)
		return -1;
	if (*what == 'w')
		return 0;
	ssize_t size = read(fd, text, sizeof text);
	if (size == 0)
		refused("EMPTY");
	return size == -1 ? -1 : 0;
}

static int reached_below(const char *top, char **words)
{
	return reached(need(open(top, O_PATH), "open the directory"), words[WANTED], words[ACCESS]);
}

static const char *covered(char **words)
{
	static char path[4200];
	snprintf(path, sizeof path, "%s/%s", words[TOP], words[COVERED]);
	return path;
}

static int unmount(char **words)
{
	need(unshare(CLONE_NEWNS), "unshare mounts");
	return umount2(covered(words), MNT_DETACH) == -1 ? -1 : reached_below(words[TOP], words);
}

static int remount(char **words)
{
	own_mounts();
	if (mount(NULL, covered(words), NULL, MS_BIND | MS_REMOUNT, NULL) == -1)
		return -1;
	return reached_below(words[TOP], words);
}

static int set_attributes(char **words)
{
	own_mounts();
	struct mount_attr change = {.attr_clr = MOUNT_ATTR_RDONLY};
	if (syscall(SYS_mount_setattr, AT_FDCWD, covered(words), 0, &change, sizeof change) == -1)
		return -1;
	return reached_below(words[TOP], words);
}

static int bind_one(char **words)
{
	own_mounts();
	const char *at = fresh_directory();
	return mount(words[TOP], at, NULL, MS_BIND, NULL) == -1 ? -1 : reached_below(at, words);
}

static int bind_all(char **words)
{
	char path[4200];
	own_mounts();
	const char *at = fresh_directory();
	if (mount(words[TOP], at, NULL, MS_BIND | MS_REC, NULL) == -1)
		return -1;
	snprintf(path, sizeof path, "%s/%s", at, words[COVERED]);
	return umount2(path, MNT_DETACH) == -1 ? -1 : reached_below(at, words);
}

static int move(char **words)
{
	own_mounts();
	char at[4200];
	snprintf(at, sizeof at, "%s", fresh_directory());
	struct stat about;
	if (stat(covered(words), &about) == 0 && !S_ISDIR(about.st_mode)) {
		strcat(at, "/file");
		close(open(at, O_CREAT, 0644));
	}
	return mount(covered(words), at, NULL, MS_MOVE, NULL) == -1 ? -1 : reached_below(words[TOP], words);
}

static int clone_tree(char **words)
{
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, words[TOP], OPEN_TREE_CLONE);
	return fd == -1 ? -1 : reached(fd, words[WANTED], words[ACCESS]);
}

/* A detached copy of all, whose mounts we take apart where it is attached. */
static int clone_all(char **words)
{
	char path[4200];
	own_mounts();
	const char *at = fresh_directory();
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, words[TOP], OPEN_TREE_CLONE | AT_RECURSIVE);
	if (fd == -1)
		return -1;
	need((int)syscall(SYS_move_mount, fd, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH), "attach it");
	snprintf(path, sizeof path, "%s/%s", at, words[COVERED]);
	return umount2(path, MNT_DETACH) == -1 ? -1 : reached_below(at, words);
}

static int overlay(char **words)
{
	char options[8400];
	own_mounts();
	const char *at = fresh_directory();
	snprintf(options, sizeof options, "lowerdir=%s:%s", words[TOP], at);
	return mount("attack", at, "overlay", 0, options) == -1 ? -1 : reached_below(at, words);
}

static int fresh(char **words)
{
	own_mounts();
	const char *at = fresh_directory();
	return mount("attack", at, words[KIND], 0, words[OPTIONS]) == -1 ? -1 : reached_below(at, words);
}

static int fresh_with_options(char **words)
{
	int context = (int)syscall(SYS_fsopen, words[KIND], 0);
	if (context == -1 || syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == -1)
		return -1;
	int fd = (int)syscall(SYS_fsmount, context, 0, 0);
	return fd == -1 ? -1 : reached(fd, words[WANTED], words[ACCESS]);
}

/* Another mount between what is covered and what covers it, then the upper one away. */
static int beneath(char **words)
{
	own_mounts();
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, words[TOP], OPEN_TREE_CLONE | AT_RECURSIVE);
	if (fd == -1)
		return -1;
	if (syscall(SYS_move_mount, fd, "", AT_FDCWD, words[TOP], MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH) == -1)
		return -1;
	if (umount2(words[TOP], MNT_DETACH) == -1 || umount2(covered(words), MNT_DETACH) == -1)
		return -1;
	return reached_below(words[TOP], words);
}

/* Something of ours over the mount below, moved away again: with what was covered, or without? */
static int cover_and_move(char **words)
{
	own_mounts();
	char at[4200];
	snprintf(at, sizeof at, "%s", fresh_directory());
	if (mount(words[TOP], words[TOP], NULL, MS_BIND, NULL) == -1 || mount(words[TOP], at, NULL, MS_MOVE, NULL) == -1)
		return -1;
	return reached_below(at, words);
}

const struct attack MASKS[] = {
	{"mask-umount", unmount},
	{"mask-remount", remount},
	{"mask-setattr", set_attributes},
	{"mask-bind", bind_one},
	{"mask-rbind", bind_all},
	{"mask-move", move},
	{"mask-open_tree", clone_tree},
	{"mask-open_tree-all", clone_all},
	{"mask-overlay", overlay},
	{"mask-fresh", fresh},
	{"mask-fsmount", fresh_with_options},
	{"mask-beneath", beneath},
	{"mask-cover", cover_and_move},
	{0},
};
