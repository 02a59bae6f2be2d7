/* The network of the container: lo, and a veth(4) pair with a routed address, as ve/venet.py has it, in two batches. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "floor.h"

/* Requests that go out in one send(2); the kernel acknowledges each. */
struct batch {
	char bytes[4096];
	size_t used;
	struct nlmsghdr *last;
	int count;
};

static const unsigned char mac[] = { 0x02, 0x76, 0x65, 0, 0, 1 };

static void *begin(struct batch *batch, int type, int flags, size_t size)
{
	struct nlmsghdr *header = (struct nlmsghdr *)(batch->bytes + batch->used);

	memset(header, 0, NLMSG_SPACE(size));
	header->nlmsg_len = NLMSG_SPACE(size);
	header->nlmsg_type = type;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	batch->last = header;
	batch->used += NLMSG_SPACE(size);
	batch->count++;
	return NLMSG_DATA(header);
}

static struct rtattr *attribute(struct batch *batch, int type, const void *data, size_t size)
{
	struct rtattr *made = (struct rtattr *)(batch->bytes + batch->used);

	made->rta_type = type;
	made->rta_len = RTA_LENGTH(size);
	memset(RTA_DATA(made), 0, RTA_SPACE(size) - RTA_LENGTH(0));
	if (data)
		memcpy(RTA_DATA(made), data, size);
	batch->used += RTA_SPACE(size);
	batch->last->nlmsg_len += RTA_SPACE(size);
	return made;
}

static void end(struct batch *batch, struct rtattr *nest)
{
	nest->rta_len = batch->bytes + batch->used - (char *)nest;
}

static void link_message(struct batch *batch, int type, int flags, int index, unsigned state, unsigned change)
{
	struct ifinfomsg *info = begin(batch, type, flags, sizeof *info);

	info->ifi_index = index;
	info->ifi_flags = state;
	info->ifi_change = change;
}

static void address(struct batch *batch, int index, in_addr_t given, int scope)
{
	struct ifaddrmsg *info = begin(batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof *info);

	info->ifa_family = AF_INET;
	info->ifa_prefixlen = 32;
	info->ifa_scope = scope;
	info->ifa_index = index;
	attribute(batch, IFA_LOCAL, &given, sizeof given);
	attribute(batch, IFA_ADDRESS, &given, sizeof given);
}

/* A destination or a gateway of 0 is none. */
static void route(struct batch *batch, int index, in_addr_t to, in_addr_t gateway)
{
	struct rtmsg *info = begin(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sizeof *info);

	info->rtm_family = AF_INET;
	info->rtm_dst_len = to ? 32 : 0;
	info->rtm_table = RT_TABLE_MAIN;
	info->rtm_protocol = RTPROT_STATIC;
	info->rtm_type = RTN_UNICAST;
	info->rtm_scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
	attribute(batch, RTA_OIF, &index, sizeof index);
	if (to)
		attribute(batch, RTA_DST, &to, sizeof to);
	if (gateway)
		attribute(batch, RTA_GATEWAY, &gateway, sizeof gateway);
}

/* The first refusal, or 0. */
static int ask(const struct batch *batch)
{
	char answer[8192];
	int found = 0, count = batch->count, fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	must(send(fd, batch->bytes, batch->used, 0) == (ssize_t)batch->used, "netlink");
	while (count > 0) {
		ssize_t size = recv(fd, answer, sizeof answer, 0);

		must(size > 0, "netlink's answer");
		for (struct nlmsghdr *each = (void *)answer; NLMSG_OK(each, size); each = NLMSG_NEXT(each, size)) {
			int error = -((struct nlmsgerr *)NLMSG_DATA(each))->error;

			count--;
			if (!found)
				found = error;
		}
	}
	close(fd);
	return found;
}

static void ask_for(const struct batch *batch, const char *what)
{
	errno = ask(batch);
	must(!errno, what);
}

static in_addr_t own_address(unsigned serial)
{
	return htonl(0x0ac80000 + 1 + serial % 60000); /* 10.200.0.1 and on */
}

static in_addr_t gateway(void)
{
	return htonl(0xa9fe0101); /* 169.254.1.1 */
}

/*
 * On the host: the pair, its names, the gateway's address and the route to the container.  The kernel takes all of it
 * away behind our back with the container's namespace, so each pair has a name and an index of its own.
 */
void link_outside(int netns, unsigned serial)
{
	struct batch batch = { .used = 0 };
	struct rtattr *info, *data, *peer, *family, *inet6, *names;
	int index = FIRST_INDEX + serial;
	struct ifinfomsg inside = { .ifi_index = INSIDE_INDEX, .ifi_flags = IFF_NOARP, .ifi_change = IFF_NOARP };
	char name[IFNAMSIZ], other[32];
	unsigned char none = IN6_ADDR_GEN_MODE_NONE;

	snprintf(name, sizeof name, "floor%u", serial);
	snprintf(other, sizeof other, "floor-of-%u", serial);
	link_message(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, index, IFF_NOARP, IFF_NOARP);
	attribute(&batch, IFLA_IFNAME, name, strlen(name) + 1);
	attribute(&batch, IFLA_ADDRESS, mac, sizeof mac);
	info = attribute(&batch, IFLA_LINKINFO, NULL, 0);
	attribute(&batch, IFLA_INFO_KIND, "veth", 4);
	data = attribute(&batch, IFLA_INFO_DATA, NULL, 0);
	peer = attribute(&batch, VETH_INFO_PEER, &inside, sizeof inside);
	attribute(&batch, IFLA_IFNAME, "venet0", 7);
	attribute(&batch, IFLA_ADDRESS, mac, sizeof mac);
	attribute(&batch, IFLA_NET_NS_FD, &netns, sizeof netns);
	end(&batch, peer);
	end(&batch, data);
	end(&batch, info);
	link_message(&batch, RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL, index, 0, 0);
	names = attribute(&batch, IFLA_PROP_LIST | NLA_F_NESTED, NULL, 0);
	attribute(&batch, IFLA_ALT_IFNAME, other, strlen(other) + 1);
	end(&batch, names);
	link_message(&batch, RTM_NEWLINK, 0, index, 0, 0);
	attribute(&batch, IFLA_IFALIAS, other, strlen(other));
	family = attribute(&batch, IFLA_AF_SPEC | NLA_F_NESTED, NULL, 0);
	inet6 = attribute(&batch, AF_INET6 | NLA_F_NESTED, NULL, 0);
	attribute(&batch, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof none);
	end(&batch, inet6);
	end(&batch, family);
	address(&batch, index, gateway(), RT_SCOPE_LINK);
	link_message(&batch, RTM_NEWLINK, 0, index, IFF_UP, IFF_UP);
	route(&batch, index, own_address(serial), 0);
	ask_for(&batch, "make the veth pair");
}

/* In the container: lo and its end of the pair up, its address and the way out. */
void link_inside(unsigned serial)
{
	struct batch batch = { .used = 0 };

	link_message(&batch, RTM_NEWLINK, 0, 1, IFF_UP, IFF_UP);
	link_message(&batch, RTM_NEWLINK, 0, INSIDE_INDEX, IFF_UP, IFF_UP);
	address(&batch, INSIDE_INDEX, own_address(serial), RT_SCOPE_UNIVERSE);
	route(&batch, INSIDE_INDEX, gateway(), 0);
	route(&batch, INSIDE_INDEX, 0, gateway());
	ask_for(&batch, "bring up the veth inside");
}

void loopback_up(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	must(!ioctl(fd, SIOCSIFFLAGS, &lo), "lo up");
	close(fd);
}
