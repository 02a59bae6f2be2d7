"""ioctl(2) requests and device numbers that Python's own modules do not name; those of most architectures."""

import os

# <asm-generic/ioctls.h>, ioctl_tty(2)
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCGPTPEER = 0x5441
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TCGETS = 0x5401
TCSETS = 0x5402

# <asm-generic/termbits.h>
IUTF8 = 0x4000

# <linux/sockios.h>, netdevice(7)
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

PTMX = os.makedev(5, 2)  # /dev/ptmx, the kernel's devices.txt
