/* What the parts of the floor share; each says at its head what it is of that. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

enum { INSIDE_INDEX = 1000, FIRST_INDEX = 100000 }; /* of interfaces: none has these yet */

/* As they are given on the command line, and where everything is made. */
struct floor {
	const char *template; /* the directory below, read only */
	const char *cgroup; /* a cgroup2 directory of ours */
	const char *scratch; /* an empty directory, to mount on */
	unsigned base; /* the host's id of the container's root */
	unsigned long most_threads; /* that the host can have */
};

struct program {
	char bytes[16384];
	size_t size;
};

/* One container: what its processes hand on to each other. */
struct life {
	unsigned serial;
	bool veth;
	bool shown;
	char *const *argv;
	char cgroup[512];
	int limited[2]; /* init has written its limits: setup may mount and pivot */
	int rooted[2]; /* setup has mounted the root: init may go on */
	int linked[2]; /* we have made the pair: init may bring up its end */
	int born[2]; /* init's pid on the host, from setup */
	pid_t init;
};

extern struct floor floor_;
extern struct program device_filter, filters[2];

/* floor.c: must() ends the process, saying what failed, if ok is not so. */
void must(bool ok, const char *what);
void write_file(const char *path, const char *text);
void tell(int pipe_end);
void await(int pipe_end);
pid_t clone3(uint64_t flags, int cgroup, int exit_signal);

/* cgroup.c */
void make_cgroup(struct life *life);
void remove_cgroup(const char *path);

/* sides.c */
_Noreturn void be_setup(struct life *life);
void machine_limits(void);
void become(unsigned id);
void confine(void);
_Noreturn void execute(char *const *argv);

/* mounts.c */
void mount_union(const struct floor *floor, int userns);
void mount_protected(const struct floor *floor);
void mount_own(void);

/* link.c */
void link_outside(int netns, unsigned serial);
void link_inside(unsigned serial);
void loopback_up(void);
