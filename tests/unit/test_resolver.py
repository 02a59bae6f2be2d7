"""What of a host's resolv.conf is of use to a VE, what may be asked for, and how lines of hosts come together."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from ve import ownfiles, resolver
from ve.errors import InvalidValue

STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
# what the host's file says, what systemd-resolved's does, and what a VE's is to say
TEXTS = {
    "plain": ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", "", "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"),
    "search": ("domain a\nsearch b c # d\nnameserver 192.0.2.1", "", "search b c\nnameserver 192.0.2.1\n"),
    "options": (
        "options ndots:2\noptions timeout:1 trust-ad\nnameserver 192.0.2.1\n",
        "",
        "nameserver 192.0.2.1\noptions ndots:2 timeout:1\n",
    ),
    "its own": (
        "nameserver ::1\nnameserver 127.0.0.1\nnameserver 0.0.0.0\nnameserver 192.0.2.1\n",
        "",
        "nameserver 192.0.2.1\n",
    ),
    "mapped": ("nameserver ::ffff:127.0.0.1\nnameserver 192.0.2.1\n", "", "nameserver 192.0.2.1\n"),
    "of a link": ("nameserver fe80::1%eth0\nnameserver x\nnameserver 192.0.2.1\n", "", "nameserver 192.0.2.1\n"),
    "resolved": (STUB, "nameserver 192.0.2.7\nsearch other\n", "search lan\nnameserver 192.0.2.7\noptions edns0\n"),
    "resolved has none": (STUB, "", "search lan\noptions edns0\n"),
    "no stub": ("nameserver 192.0.2.1\n", "nameserver 192.0.2.7\n", "nameserver 192.0.2.1\n"),
    "nothing": ("", "", ""),
}


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resolver, "OF_HOST", str(tmp_path / "host"))
    monkeypatch.setattr(resolver, "OF_RESOLVED", str(tmp_path / "resolved"))
    return tmp_path


def said(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("words", [(), ("inherit",)])
def test_what_of_the_hosts_is_of_use(paths: Path, name: str, words: tuple[str, ...]) -> None:
    of_host, of_resolved, wanted = TEXTS[name]
    (paths / "host").write_text(of_host)
    if of_resolved:
        (paths / "resolved").write_text(of_resolved)
    assert said(resolver.resolv_conf(words, words)) == wanted


def test_the_file_says_so_if_there_is_nobody_to_ask() -> None:
    assert "127.0.0.1" not in resolver.resolv_conf((), ()) and "ve set --nameserver" in resolver.resolv_conf((), ())


@pytest.mark.parametrize(
    ("nameservers", "searchdomains", "wanted"),
    [
        (("127.0.0.1",), (), "search b\nnameserver 127.0.0.1\n"),
        ((), ("x.example", "y"), "search x.example y\nnameserver 192.0.2.1\noptions ndots:2\n"),
        (("fd00::1",), (".",), "search .\nnameserver fd00::1\n"),
    ],
)
def test_what_is_asked_for_stands_alone(
    paths: Path, nameservers: tuple[str, ...], searchdomains: tuple[str, ...], wanted: str
) -> None:
    (paths / "host").write_text("search b\nnameserver 192.0.2.1\noptions ndots:2\n")
    assert said(resolver.resolv_conf(nameservers, searchdomains)) == wanted


@pytest.mark.parametrize(
    ("nameservers", "searchdomains", "why"),
    [
        (["1.2.3"], [], "cannot use nameserver '1.2.3': it is not an address"),
        (["0.0.0.0"], [], "cannot use nameserver '0.0.0.0': nobody can be asked there"),
        (["ff02::1"], [], "cannot use nameserver 'ff02::1': nobody can be asked there"),
        (["inherit", "1.1.1.1"], [], "cannot use nameserver inherit beside 1.1.1.1: it stands for what the host has"),
        ([], ["a", "inherit"], "cannot use searchdomain inherit beside a: it stands for what the host has"),
        (["1.1.1.1"] * 4, [], "cannot use 4 nameservers: a resolver asks the first 3 only"),
        ([], ["a b"], "cannot use searchdomain 'a b': it is not a domain, such as example.org"),
        ([], ["a\nnameserver 6.6.6.6"], None),
        ([], ["-a"], None),
        ([], [""], None),
    ],
)
def test_what_cannot_be_asked_for(nameservers: list[str], searchdomains: list[str], why: str | None) -> None:
    with pytest.raises(InvalidValue) as caught:
        resolver.check(nameservers, searchdomains)
    assert why is None or str(caught.value) == why
    resolver.check(["inherit"], ["inherit"])
    resolver.check(["1.1.1.1", "::1"], ["example.org", "_tcp.example.", "."])


def test_names_of_addresses() -> None:
    addresses = [ip_address("10.9.0.5"), ip_address("fd00::5")]
    assert resolver.hosts(addresses, ["a.b", "c"]) == ["10.9.0.5\ta.b a c", "fd00::5\ta.b a c"]
    assert resolver.hosts(addresses, ["a", "a"])[0] == "10.9.0.5\ta"
    assert resolver.hosts(addresses, ["localhost"]) == [] == resolver.hosts([], ["a"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"127.0.0.1\tlocalhost\t# ve\n::1\tlocalhost ip6-localhost ip6-loopback\t# ve\nX\t# ve\n"),
        (b"127.0.0.1 a localhost\n::1 localhost", b"X\t# ve\n127.0.0.1 a localhost\n::1 localhost\n"),
        (
            b"::1 localhost # 127.0.0.1 localhost\n",
            b"127.0.0.1\tlocalhost\t# ve\nX\t# ve\n::1 localhost # 127.0.0.1 localhost\n",
        ),
        (
            b"127.0.0.1 localhost\n::1 localhost\nY # ve\nZ \xff\r\n\n\n",
            b"X\t# ve\n127.0.0.1 localhost\n::1 localhost\nZ \xff\r\n",
        ),
    ],
)
def test_lines_of_ours_and_of_others(before: bytes, after: bytes) -> None:
    assert ownfiles.merged(before, b"X") == after
    assert ownfiles.merged(after, b"X") == after
