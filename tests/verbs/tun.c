/* A host at the other end of a tunnel: tun NAME makes the TUN interface NAME, says "ready" and answers pings there. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { ICMP = 1, ECHO_REPLY = 0, ECHO = 8 };

int main(int count, char **arguments)
{
	unsigned char packet[2048], address[4];
	struct ifreq interface = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	ssize_t length;
	int device = open("/dev/net/tun", O_RDWR);

	if (count != 2 || device < 0) {
		perror("/dev/net/tun");
		return 1;
	}
	strncpy(interface.ifr_name, arguments[1], IFNAMSIZ - 1);
	if (ioctl(device, TUNSETIFF, &interface)) {
		perror("TUNSETIFF");
		return 2;
	}
	puts("ready");
	fflush(stdout);
	while ((length = read(device, packet, sizeof packet)) > 0) {
		unsigned char *inner = packet + (packet[0] & 15) * 4;
		if (packet[0] >> 4 != 4 || packet[9] != ICMP || inner[0] != ECHO)
			continue;
		memcpy(address, packet + 12, 4); /* source and destination change places, and no sum changes */
		memcpy(packet + 12, packet + 16, 4);
		memcpy(packet + 16, address, 4);
		inner[0] = ECHO_REPLY;
		unsigned sum = (inner[2] << 8 | inner[3]) + (ECHO << 8); /* RFC 1624 */
		sum = (sum & 0xffff) + (sum >> 16);
		inner[2] = sum >> 8;
		inner[3] = sum;
		if (write(device, packet, length) != length)
			perror("write");
	}
	return 0;
}
