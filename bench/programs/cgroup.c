/* The cgroup of the container, made and filled as ve/cgroups.py and ve/devices.py have it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "floor.h"

static void filter_devices(const char *cgroup)
{
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE };
	union bpf_attr attach = { .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI };
	int directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), loaded;

	load.insns = (uintptr_t)device_filter.bytes;
	load.insn_cnt = device_filter.size / sizeof(struct bpf_insn);
	load.license = (uintptr_t) "GPL";
	loaded = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
	must(loaded >= 0, "load the device filter");
	attach.target_fd = directory;
	attach.attach_bpf_fd = loaded;
	must(!syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach), "attach the device filter");
	close(loaded);
	close(directory);
}

void make_cgroup(struct life *life)
{
	static const char *const given[] = { "", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads" };
	char path[600];

	snprintf(life->cgroup, sizeof life->cgroup, "%s/%u", floor_.cgroup, life->serial);
	must(!mkdir(life->cgroup, 0755), "make the cgroup");
	snprintf(path, sizeof path, "%s/init", life->cgroup);
	must(!mkdir(path, 0755), "make init's cgroup");
	snprintf(path, sizeof path, "%s/exec", life->cgroup);
	must(!mkdir(path, 0755), "make the cgroup of commands");
	snprintf(path, sizeof path, "%s/cgroup.max.depth", life->cgroup);
	write_file(path, "32");
	snprintf(path, sizeof path, "%s/cgroup.max.descendants", life->cgroup);
	write_file(path, "4000");
	for (size_t i = 0; i < COUNT(given); i++) {
		snprintf(path, sizeof path, "%s/init%s", life->cgroup, given[i]);
		must(!chown(path, floor_.base, floor_.base), path);
	}
	filter_devices(life->cgroup);
}

/* A process leaves its cgroup a moment after its parent has heard of its end. */
void remove_cgroup(const char *path)
{
	while (rmdir(path)) {
		must(errno == EBUSY, "remove the cgroup");
		sched_yield();
	}
}
