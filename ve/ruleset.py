"""The rules of VEs' networks, as nft(8) reads them: two tables of our own, whose rules never change.

What changes are the elements of their sets and maps.  A VE's interface on the host has a name that begins with venet;
what the VE sends comes in there, with the VE's own headers.  Rules that look at nothing but the packet stand last: all
of a VE's packets pass each one.

    table inet ve       VEs with addresses of their own, to which the host routes
    table bridge ve     VEs that are ports of a bridge; a port without elements is cut off
"""

import re
import zlib
from dataclasses import dataclass

from ve import linknames, venet

VES = f"{linknames.PREFIX}*"
GATEWAY4, GATEWAY6 = venet.GATEWAYS[4], venet.GATEWAYS[6]

# A hook of priority raw comes before conntrack and NAT: it sees what the VE sent.  Of 127.0.0.0/8 are also those who
# would reach the host's own services where route_localnet is on; and neither side of a venet needs to hear of whom it
# cannot miss: there is no multicast on it, as there was none on OpenVZ's, nor a neighbour to be found (IFF_NOARP).
#
# fib knows for a source without a route no interface, and for one that is the host's own neither (nft_fib_ipv4.c).
# To 0.0.0.0 and ::, for the sake of DHCP and of ND, it is kind; the former only when it asks all.
#
# A VE that talks to itself by way of the host must not see itself as the other end, and who sends from 127.0.0.0/8
# gets no answer: the gateway is put in their place.  [::1] cannot be led elsewhere: IPv6 has no route_localnet.
#
# The kernel takes a dead VE's interface, and its route, before we take what leads there: from then on the way to that
# address is the LAN's, or the default gateway's, and whoever answers there is a stranger.
_INET = f"""
    set sent {{ type ifname; size 1048576; flags dynamic; counter; }}
    set received {{ type ifname; size 1048576; flags dynamic; counter; }}
    set masqueraded4 {{ type ipv4_addr; flags interval; }}
    set masqueraded6 {{ type ipv6_addr; flags interval; }}
    map published4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map published6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    set parted {{ type ifname . ifname; }}
    set itself4 {{ type ipv4_addr . ipv4_addr; }}
    set itself6 {{ type ipv6_addr . ipv6_addr; }}
    chain from_ves {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "{VES}" accept
        add @sent {{ iifname }}
        fib saddr . iif oif missing drop
        ip6 saddr :: drop
        ip daddr {{ 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 }} drop
        ip6 daddr ff00::/8 drop
        udp sport {{ 67, 547 }} drop
        icmp type {{ redirect, router-advertisement }} drop
        icmpv6 type {{ 133-137 }} drop
    }}
    chain to_ves {{
        type filter hook postrouting priority 300; policy accept;
        oifname != "{VES}" goto elsewhere
        iifname . oifname @parted drop
        ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} drop
        ip6 daddr ff00::/8 drop
        icmp type redirect drop
        icmpv6 type {{ 133-137 }} drop
        add @received {{ oifname }}
    }}
    chain elsewhere {{
        ct status & dnat == 0 accept
        ip daddr . ip daddr @itself4 drop
        ip6 daddr . ip6 daddr @itself6 drop
    }}
    chain from_outside {{
        type nat hook prerouting priority dstnat; policy accept;
        jump published
    }}
    chain from_here {{
        type nat hook output priority -100; policy accept;
        jump published
    }}
    chain published {{
        ip6 daddr {{ ::1, fe80::/10 }} return
        fib daddr type != local return
        dnat ip to meta l4proto . th dport map @published4
        dnat ip6 to meta l4proto . th dport map @published6
    }}
    chain sources {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{VES}" ip saddr 127.0.0.0/8 snat ip to {GATEWAY4}
        oifname "{VES}" ip saddr . ip daddr @itself4 snat ip to {GATEWAY4}
        oifname "{VES}" ip6 saddr . ip6 daddr @itself6 snat ip6 to {GATEWAY6}
        iifname "{VES}" oifname != "{VES}" ip saddr @masqueraded4 masquerade
        iifname "{VES}" oifname != "{VES}" ip6 saddr @masqueraded6 masquerade
    }}
"""

# An address may be asked for before it is used (RFC 5227, RFC 4862): then the sender's is not there yet.  Listeners are
# reported from there too (RFC 3590).  A fragment in which a chain of headers goes on has no l4proto, so no rule lets it
# pass; any other first one has the whole of UDP's.  @th,64,128 is the target of ND, for which nft has a name only since
# 1.0.7.  What no chain accepts comes back to the last drop.  Frames to 01:80:c2:00:00:0x are for the bridge itself, and
# most go by prerouting.
_BRIDGE = f"""
    set sent {{ type ifname; size 1048576; flags dynamic; counter; }}
    set received {{ type ifname; size 1048576; flags dynamic; counter; }}
    set own {{ type ifname . ether_addr; }}
    set own4 {{ type ifname . ether_addr . ipv4_addr; }}
    set own6 {{ type ifname . ether_addr . ipv6_addr; }}
    set targets6 {{ typeof iifname . ether saddr . @th,64,128; }}
    chain from_ports {{
        type filter hook prerouting priority -300; policy accept;
        iifname != "{VES}" accept
        add @sent {{ iifname }}
        iifname . ether saddr != @own drop
        ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 jump from_arp
        ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
        ether type ip iifname . ether saddr . ip saddr @own4 jump from_ip
        ether type ip6 ip6 saddr :: jump from_nobody
        ether type ip6 iifname . ether saddr . ip6 saddr @own6 jump from_ip6
        drop
    }}
    chain from_arp {{
        iifname . arp saddr ether . arp saddr ip @own4 accept
        arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @own4 accept
    }}
    chain from_ip {{
        udp sport 67 drop
        icmp type {{ redirect, router-advertisement }} drop
        accept
    }}
    chain from_nobody {{
        icmpv6 type nd-neighbor-solicit iifname . ether saddr . @th,64,128 @targets6 accept
        icmpv6 type {{ mld-listener-report, mld2-listener-report }} accept
    }}
    chain from_ip6 {{
        udp sport 547 drop
        icmpv6 type {{ nd-router-advert, nd-redirect }} drop
        icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @targets6 drop
        meta l4proto <= 255 accept
    }}
    chain to_the_bridge {{
        type filter hook input priority -300; policy accept;
        iifname "{VES}" ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop
    }}
    chain to_ports {{
        type filter hook postrouting priority 300; policy accept;
        oifname != "{VES}" accept
        ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 oifname . ether daddr != @own drop
        add @received {{ oifname }}
    }}
"""


@dataclass(frozen=True)
class Table:
    """One of ours: its family and, as nft reads it, what is in it."""

    family: str
    content: str

    @property
    def version(self) -> str:
        """What its comment in the kernel says: another one is of another version of us."""
        return f"ve {zlib.crc32(self.content.encode()):08x}"

    @property
    def rules(self) -> int:
        """How many it has."""
        lines = [line.strip() for line in self.content.splitlines()]
        return sum(1 for line in lines if line and not re.match(r"(set|map|chain|type) |\}", line))

    @property
    def signs(self) -> tuple[str, str, int]:
        """What nftables.is_whole asks the kernel for."""
        return self.family, self.version, self.rules

    @property
    def commands(self) -> str:
        """In place of whatever there was."""
        name = f"{self.family} ve"
        made = f'table {name} {{\n    comment "{self.version}"{self.content}}}\n'
        return f"add table {name}\ndelete table {name}\n{made}"


INET, BRIDGE = Table("inet", _INET), Table("bridge", _BRIDGE)
