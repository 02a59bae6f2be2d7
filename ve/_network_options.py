"""The arguments and options of networks: of `ve network`, and those by which a VE is given addresses."""

from typing import Annotated

import typer

from ve._completion import complete_address, complete_pool

Texts = list[str] | None

Addresses = Annotated[
    Texts,
    typer.Option(
        "--ip",
        metavar="ADDRESS",
        help="An address; auto[:POOL][:4|6] for one of a pool while it runs, with :sticky for good; repeatable.",
        autocompletion=complete_address,
    ),
]
Publish = Annotated[
    Texts,
    typer.Option(metavar="HOSTPORT:PORT[/udp]", help="Lead a port of the host to one of its own; repeatable."),
]
Rate = Annotated[str | None, typer.Option(metavar="RATE[:BURST]", help="What it may send and receive, such as 10mbit.")]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="routed (by --ip), none, host, ve:VE, bridge:BR, macvlan:IF or device:IF.",
    ),
]
DeviceLostOk = Annotated[
    bool | None,
    typer.Option("--device-lost-ok", help="Take a virtual device:IF, which is lost if the VE ends by itself."),
]
Gateways = Annotated[
    Texts,
    typer.Option("--gateway", metavar="ADDRESS", help="Its way out where it is not routed, one for each family."),
]
Nameservers = Annotated[
    Texts,
    typer.Option(
        "--nameserver",
        metavar="ADDRESS|inherit",
        help="Whom a VE with addresses asks for names (the host's, unless given); repeatable, three at most.",
    ),
]
SearchDomains = Annotated[
    Texts,
    typer.Option("--searchdomain", metavar="DOMAIN|inherit", help="Where short names are looked for; repeatable."),
]
Delay = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long each packet is to wait, such as 20ms: for tests.")
]
Loss = Annotated[str | None, typer.Option(metavar="PERCENT", help="How many are to be lost, such as 0.5%: for tests.")]
AddAddresses = Annotated[
    Texts,
    typer.Option("--ip-add", metavar="ADDRESS", help="One more; repeatable.", autocompletion=complete_address),
]
RemoveAddresses = Annotated[
    Texts, typer.Option("--ip-del", metavar="ADDRESS|all", help="One less, as it was given; repeatable.")
]
AddPublish = Annotated[
    Texts, typer.Option("--publish-add", metavar="HOSTPORT:PORT[/udp]", help="One more; repeatable.")
]
RemovePublish = Annotated[
    Texts, typer.Option("--publish-del", metavar="HOSTPORT:PORT[/udp]|all", help="One less; repeatable.")
]
NewPool = Annotated[str, typer.Argument(metavar="NAME", help="That of --ip auto is default.")]
Pool = Annotated[str, typer.Argument(metavar="NAME", help="A pool.", autocompletion=complete_pool)]
Cidrs = Annotated[
    list[str], typer.Option("--cidr", metavar="CIDR", help="A network, such as 10.9.0.0/24 or fd00:9::/64; repeatable.")
]
Nat = Annotated[bool, typer.Option("--nat", help="Forward what its VEs send, under this host's address.")]
PoolHosts = Annotated[bool, typer.Option("--pool-hosts", help="Let its VEs find each other by name.")]
