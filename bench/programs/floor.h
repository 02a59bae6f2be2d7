/* What the three parts of the floor share: floor.c (its life), mounts.c (the root), link.c (the network). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { INSIDE_INDEX = 1000, FIRST_INDEX = 100000 }; /* of interfaces: none has these yet */

/* As they are given on the command line, and where everything is made. */
struct floor {
	const char *template; /* the directory below, read only */
	const char *cgroup; /* a cgroup2 directory of ours */
	const char *scratch; /* an empty directory, to mount on */
	unsigned base; /* the host's id of the container's root */
};

/* Ends the process, saying what failed, if ok is not so. */
void must(bool ok, const char *what);
void write_file(const char *path, const char *text);

void mount_union(const struct floor *floor, int userns);
void mount_protected(const struct floor *floor);
void mount_own(void);

void link_outside(int netns, unsigned serial);
void link_inside(unsigned serial);
void loopback_up(void);
