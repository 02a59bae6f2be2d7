"""What the interfaces of VEs are called on the host, be they routed or ports of a bridge.

Each start has a name of its own, which no other has; from the VEID alone it is found by its alternative name.
"""

import os

PREFIX = "venet"
QUEUES = "-ifb"  # behind the alternative name of its interface: what its packets are held in (ve/bandwidth.py)
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_IFNAMSIZ = 16  # <linux/if.h>


def alternative_name(tag: str, veid: int) -> str:
    """What the interface of a VE of this state dir is found by: the tag, with venet for its ve.

    systemd-networkd takes a veth that is named ve-* for one of systemd-nspawn's, by any of its names.
    """
    return f"{PREFIX}{tag.removeprefix('ve')}-{veid}"


def new_name() -> str:
    """Of an interface, as no other start of any VE has it."""
    return PREFIX + "".join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(_IFNAMSIZ - 1 - len(PREFIX)))
