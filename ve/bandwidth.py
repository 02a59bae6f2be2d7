"""How fast a VE's network goes, by tc(8) on the host's side, where nobody in the VE can change it.

    towards the VE    a bucket of tokens (tc-tbf(8)) on its interface, venet<suffix>
    from the VE       the same on an ifb, vi<suffix>, through which its packets are led as they come in (tc-mirred(8))
    both ways         netem (tc-netem(8)) before the bucket, for delays and losses

The ifb is no part of the VE's interface, and does not go with it: leading.disconnect() removes both by the names that
are found from the VEID alone.  Its handles are always the same.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import contextmanager, suppress

from ve import leases, linknames, netlink, rtnetlink
from ve.errors import NotSupported
from ve.rates import Rate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

IFB = "vi"  # how its name begins
_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_ECHO = 0x8  # NLM_F_ECHO
# <linux/rtnetlink.h>, <linux/pkt_sched.h>, <linux/pkt_cls.h>
_NEWQDISC, _DELQDISC, _GETQDISC, _NEWTFILTER = 36, 37, 38, 44
_TCA_KIND, _TCA_OPTIONS = 1, 2
_ROOT, _INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_NETEM, _BELOW_NETEM, _BUCKET = 0x10000, 0x10001, 0x20000  # 1:, 1:1 and 2:
_TBF = struct.Struct("=BBHhHIBBHhHIIII")  # struct tc_tbf_qopt: rate, peak rate; limit, buffer, mtu
_TC_LINKLAYER_ETHERNET = 1
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_NETEM_QOPT = struct.Struct("=6I")  # latency, limit (packets), loss, gap, duplicate, jitter
_TCA_NETEM_LATENCY64 = 10
_NETEM_PACKETS = 1000  # as tc has it
_TCA_U32_SEL, _TCA_U32_ACT, _TC_U32_TERMINAL = 5, 7, 1
_U32_SEL = struct.Struct("=BBBxHHhhIIIii")  # struct tc_u32_sel with one key
_FIRST_FILTER = 0x80000800  # 800::800
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 4, 1
_ETH_P_ALL = 3
_PRIORITY = 1
_QUEUE = 0.2  # seconds that a packet waits at most for its tokens
_QUEUE_LEAST = 64 << 10  # bytes: a segment that TCP hands over at once
_LEADING = "CONFIG_IFB, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED"
_LIMITING, _IMPAIRING = f"CONFIG_NET_SCH_TBF, {_LEADING}", f"CONFIG_NET_SCH_NETEM, {_LEADING}"
_LACKING = (errno.ENOENT, errno.EOPNOTSUPP)  # what a kernel without the module says
_MOST = 2**32 - 1  # of a number in the older of its structures


def limit(veid: int, interface: str, rate: Rate | None) -> None:
    """Let no more than this pass by a VE's interface in either direction, from now on; None: whatever the host can.

    In the calling thread's namespace.  NotSupported where the kernel lacks what that takes: then nothing holds it.
    """
    if rate is None:
        _lift(interface)
        return
    with _needing(f"limit the rate of {veid}", _LIMITING):
        try:
            for index in _both(interface):
                parent = _BELOW_NETEM if _options(index, _NETEM) is not None else _ROOT
                rtnetlink.ask(_bucket(index, parent, _bucket_options(rate)))
        except BaseException:
            _lift(interface)
            raise


def impair(veid: int, interface: str, delay: float = 0.0, loss: float = 0.0) -> None:
    """Let each packet wait these seconds in either direction, and lose this fraction of them; of neither: as before.

    For tests.  NotSupported where the kernel lacks what that takes.
    """
    if not delay and not loss:
        _mend(interface)
        return
    with _needing(f"delay or lose packets of {veid}", _IMPAIRING):
        try:
            for index in _both(interface):
                bucket = _options(index, _BUCKET)
                fresh = _options(index, _NETEM) is None
                rtnetlink.ask(_netem(index, delay, loss))
                if fresh and bucket is not None:
                    rtnetlink.ask(_bucket(index, _BELOW_NETEM, bucket))
        except BaseException:
            _mend(interface)
            raise


def release(interface: str) -> None:
    """Remove what does not go with the interface; it may be gone already, or never have been limited."""
    with suppress(OSError):
        rtnetlink.remove(socket.if_nametoindex(_ifb_name(interface)))


def _lift(interface: str) -> None:
    """No bucket on either side; and no ifb, unless netem needs it."""
    ends = _ends(interface)
    impaired = [index for index in ends if _options(index, _NETEM) is not None]
    for index in ends:
        if _options(index, _BUCKET) is not None:
            rtnetlink.ask(_qdisc(_DELQDISC, 0, index, _BELOW_NETEM if index in impaired else _ROOT, 0))
    if not impaired:
        _unlead(interface)


def _mend(interface: str) -> None:
    """No netem on either side, what was below it in its place; and no ifb, unless a bucket needs it."""
    buckets = 0
    for index in _ends(interface):
        bucket = _options(index, _BUCKET)
        if _options(index, _NETEM) is not None:
            rtnetlink.ask(_qdisc(_DELQDISC, 0, index, _ROOT, 0))
            if bucket is not None:
                rtnetlink.ask(_bucket(index, _ROOT, bucket))
        buckets += bucket is not None
    if not buckets:
        _unlead(interface)


# --- the two ends ---------------------------------------------------------------------------------------------------


def _ifb_name(interface: str) -> str:
    return IFB + interface.removeprefix(linknames.PREFIX)


def _ends(interface: str) -> list[int]:
    """The indices of the interface and of its ifb, as far as they are there."""
    found = []
    for name in (interface, _ifb_name(interface)):
        with suppress(OSError):
            found.append(socket.if_nametoindex(name))
    return found


def _both(interface: str) -> tuple[int, int]:
    """The same, where all that the VE sends is led through the ifb from now on."""
    index, name = socket.if_nametoindex(interface), _ifb_name(interface)
    kind = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "ifb")]})
    made = [rtnetlink.link(rtnetlink.NEWLINK, [("IFLA_IFNAME", name), kind], how=rtnetlink.NEW)]
    if (about := leases.interface(interface)) and about.name:
        made.append(rtnetlink.alternative_name(name, about.name + linknames.QUEUES))
    with suppress(FileExistsError):
        rtnetlink.ask(*made)  # at once: without that name nobody would find it again
    ifb = socket.if_nametoindex(name)
    rtnetlink.ask(*rtnetlink.no_own_address(ifb), rtnetlink.up(ifb))
    for message in (_ingress(index), _redirect(index, ifb)):
        with suppress(FileExistsError):
            rtnetlink.ask(message)
    return index, ifb


def _unlead(interface: str) -> None:
    for index in _ends(interface)[:1]:
        with suppress(OSError):  # it has none
            rtnetlink.ask(_qdisc(_DELQDISC, 0, index, _INGRESS, _INGRESS_HANDLE))
    release(interface)


# --- messages -------------------------------------------------------------------------------------------------------


def _bucket_options(rate: Rate) -> bytes:
    queue = max(int(rate.per_second * _QUEUE), _QUEUE_LEAST) + rate.burst
    parameters = _TBF.pack(
        *(0, _TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate.per_second, _MOST)),
        *(0, 0, 0, 0, 0, 0),
        *(min(queue, _MOST), 0, 0),
    )
    return b"".join(
        (
            netlink.attribute(_TCA_TBF_PARMS, parameters),
            netlink.attribute(_TCA_TBF_RATE64, struct.pack("=Q", rate.per_second)),
            netlink.attribute(_TCA_TBF_BURST, struct.pack("=I", rate.burst)),
        )
    )


def _bucket(index: int, parent: int, options: bytes) -> bytes:
    return _qdisc(_NEWQDISC, netlink.CREATE | netlink.REPLACE, index, parent, _BUCKET, "tbf", options)


def _netem(index: int, delay: float, loss: float) -> bytes:
    parameters = _NETEM_QOPT.pack(0, _NETEM_PACKETS, round(loss * _MOST), 0, 0, 0)
    parameters += netlink.attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", round(delay * 1e9)))
    return _qdisc(_NEWQDISC, netlink.CREATE | netlink.REPLACE, index, _ROOT, _NETEM, "netem", parameters)


def _ingress(index: int) -> bytes:
    return _qdisc(_NEWQDISC, netlink.CREATE | netlink.EXCL, index, _INGRESS, _INGRESS_HANDLE, "ingress")


def _redirect(index: int, ifb: int) -> bytes:
    """A filter that any packet passes, as each has four bytes that are 0 under the mask 0."""
    selector = _U32_SEL.pack(_TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    mirred = netlink.attribute(_TCA_MIRRED_PARMS, _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, ifb))
    action = _kind(_TCA_ACT_KIND, "mirred") + netlink.attribute(_TCA_ACT_OPTIONS, mirred)
    options = netlink.attribute(_TCA_U32_SEL, selector)
    options += netlink.attribute(_TCA_U32_ACT, netlink.attribute(_PRIORITY, action))
    info = _PRIORITY << 16 | socket.htons(_ETH_P_ALL)
    body = _TCMSG.pack(socket.AF_UNSPEC, index, _FIRST_FILTER, _INGRESS_HANDLE, info)
    body += _kind(_TCA_KIND, "u32") + netlink.attribute(_TCA_OPTIONS, options)
    return netlink.request(_NEWTFILTER, body, netlink.CREATE | netlink.EXCL)


def _qdisc(kind: int, how: int, index: int, parent: int, handle: int, name: str = "", options: bytes = b"") -> bytes:
    body = _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0)
    if name:
        body += _kind(_TCA_KIND, name)
    if options:
        body += netlink.attribute(_TCA_OPTIONS, options)
    return netlink.request(kind, body, how)


def _options(index: int, handle: int) -> bytes | None:
    """Those of the queueing discipline with this handle, if the interface has it."""
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        try:
            answer = netlink.get(channel, _GETQDISC, _TCMSG.pack(socket.AF_UNSPEC, index, handle, 0, 0), _ECHO)
        except FileNotFoundError:
            return None
    return bytes(dict(netlink.attributes(answer, _TCMSG.size)).get(_TCA_OPTIONS, b""))


def _kind(number: int, name: str) -> bytes:
    return netlink.attribute(number, name.encode() + b"\0")


@contextmanager
def _needing(what: str, configs: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _LACKING:
            why = f"cannot {what}: {error.strerror}"
            raise NotSupported(why, f"use a kernel with {configs}") from error
        raise
