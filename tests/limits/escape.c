/* Tries whatever would take a VE's files out of their project, or change its quota: escape PATH...
   Prints a line for each try: what it is, and the error, or "done". */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/quota.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PRJQUOTA
#define PRJQUOTA 2
#endif

static void say(const char *what, const char *path, int failed)
{
	printf("%s %s %s\n", what, path, failed ? strerrorname_np(errno) : "done");
}

static void change(const char *what, const char *path, int fd, unsigned project, int inherit)
{
	struct fsxattr attr;

	if (ioctl(fd, FS_IOC_FSGETXATTR, &attr)) {
		say("look", path, 1);
		return;
	}
	if (attr.fsx_projid == 0)
		say("unprojected", path, 0);
	attr.fsx_projid = project ? project : attr.fsx_projid;
	attr.fsx_xflags &= ~FS_XFLAG_PROJINHERIT;
	if (inherit)
		attr.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	say(what, path, ioctl(fd, FS_IOC_FSSETXATTR, &attr));
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int fd = open(argv[i], O_RDONLY);
		struct dqblk none = {.dqb_valid = QIF_LIMITS};
		struct fsxattr attr;

		if (fd < 0) {
			say("open", argv[i], 1);
			continue;
		}
		if (!ioctl(fd, FS_IOC_FSGETXATTR, &attr)) {
			change("leave", argv[i], fd, 7, 1);
			attr.fsx_projid = 0;
			say("shed", argv[i], ioctl(fd, FS_IOC_FSSETXATTR, &attr));
			if (attr.fsx_xflags & FS_XFLAG_PROJINHERIT)
				change("disinherit", argv[i], fd, 0, 0);
		}
		say("unlimit", argv[i],
		    (int)syscall(SYS_quotactl_fd, fd, QCMD(Q_SETQUOTA, PRJQUOTA), attr.fsx_projid, &none));
		say("switch", argv[i], (int)syscall(SYS_quotactl_fd, fd, QCMD(Q_QUOTAOFF, PRJQUOTA), 0, NULL));
		close(fd);
	}
	return 0;
}
