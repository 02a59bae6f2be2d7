"""ve doctor: what does not agree is said, and mended without losing a VE's data."""

import contextlib
import fcntl
import json
import os
import re
import signal
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

WELL = "all VEs are as they should be\n"


def troubles(host_dir: Path, *options: str, code: int = 1) -> list[dict[str, object]]:
    done = commandline.run(host_dir, "doctor", "--json", *options)
    assert done.returncode == code, done
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def texts(host_dir: Path) -> dict[object, str]:
    return {each["veid"]: str(each["text"]) for each in troubles(host_dir)}


def mend(host_dir: Path) -> None:
    """All is mended, and nothing is left to be."""
    assert all(each["mended"] and each["cure"] == "" for each in troubles(host_dir, "--fix", code=0))
    done = commandline.run(host_dir, "doctor")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", WELL)


def kill(host_dir: Path, env: "ve.Environment") -> None:
    """As the kernel does when memory is gone."""
    os.kill(witness.init(host_dir, env.veid), signal.SIGKILL)
    witness.wait_empty(host_dir, env.veid)


@pytest.mark.any_kernel
def test_nothing_is_wrong_with_what_runs_and_what_does_not(host_dir: Path, host: "ve.Host", make: Make) -> None:
    runs, stopped = make(name="mars"), make()
    runs.start()
    runs.beancounters()
    stopped.start()
    stopped.stop(fast=True)
    with host.ephemeral("busybox", command=("sleep", "1000")), witness.nothing_changes(host_dir, but=".*/log"):
        assert troubles(host_dir, code=0) == []
        assert troubles(host_dir, "--fix", code=0) == []
        assert witness.runs(host_dir, runs.veid)


@pytest.mark.any_kernel
def test_one_that_ended_by_itself(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    kill(host_dir, env)
    assert texts(host_dir) == {env.veid: "it does not run, and left of it is: facts, a cgroup"}
    mend(host_dir)
    assert not commandline.cgroup(host_dir, env.veid).exists()
    assert not (host_dir / f"run/{env.veid}").exists()
    env.start()


@pytest.mark.any_kernel
def test_one_that_was_to_be_thrown_away(host_dir: Path) -> None:
    script = """
import os, signal, sys, ve
with ve.Host(sys.argv[1]).ephemeral("busybox", command=("sleep", "1000")) as env:
    print(env.veid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with witness.python(script, host_dir) as process:
        veid = int(process.communicate()[0])
    witness.wait_empty(host_dir, veid)
    [[who, text]] = texts(host_dir).items()
    assert (who, "was killed" in text) == (veid, True)
    mend(host_dir)
    assert witness.left_of(host_dir, veid) == []


@pytest.mark.any_kernel
def test_a_create_that_was_killed(host_dir: Path, host: "ve.Host") -> None:
    script = """
import os, signal, sys, ve
from ve.state import State
State.write_conf = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)
ve.Host(sys.argv[1]).create(77, template="busybox", name="half")
"""
    with witness.python(script, host_dir) as process:
        process.communicate()
    assert process.returncode == -9
    [[veid, text]] = texts(host_dir).items()
    left = "a private area, a mount point, host ids, a name"
    assert (veid, text) == (77, f"there is no such VE, and left of it: {left}")
    mend(host_dir)
    assert witness.left_of(host_dir, 77) == []


@pytest.mark.any_kernel
def test_data_is_never_removed(host_dir: Path, make: Make) -> None:
    """Somebody has lost its conf file."""
    env = make()
    (host_dir / f"private/{env.veid}/upper/precious").write_text("kept")
    conf = host_dir / f"conf/{env.veid}.toml"
    kept = conf.read_bytes()
    conf.unlink()
    [found] = troubles(host_dir, "--fix")
    assert (found["veid"], found["mended"]) == (env.veid, False)
    assert str(conf) in str(found["cure"])
    assert (host_dir / f"private/{env.veid}/upper/precious").read_text() == "kept"
    conf.write_bytes(kept)
    assert troubles(host_dir, code=0) == []


@pytest.mark.any_kernel
def test_one_that_runs_without_a_conf_file_is_not_ended(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    conf = host_dir / f"conf/{env.veid}.toml"
    kept = conf.read_bytes()
    conf.unlink()
    [found] = troubles(host_dir, "--fix")
    assert str(found["text"]).startswith("it runs, and has no conf file")
    assert witness.runs(host_dir, env.veid)
    conf.write_bytes(kept)


@pytest.mark.any_kernel
def test_what_cannot_be_read(host_dir: Path, make: Make) -> None:
    one, other, third = make(), make(), make()
    conf, ledger = host_dir / f"conf/{one.veid}.toml", host_dir / f"ubc/{other.veid}"
    kept = conf.read_bytes()
    conf.write_text("[")
    ledger.parent.mkdir(exist_ok=True)
    ledger.write_text("{")
    (host_dir / f"private/{third.veid}").rename(host_dir / "elsewhere")
    found = {each["veid"]: each for each in troubles(host_dir, "--fix")}
    assert set(found) == {one.veid, other.veid, third.veid}
    assert str(conf) in str(found[one.veid]["text"]) and str(ledger) in str(found[other.veid]["text"])
    assert found[other.veid]["cure"] == f"ve ubc {other.veid} --reset begins a new one"
    assert str(found[third.veid]["text"]).endswith("is gone")
    assert not any(each["mended"] for each in found.values())
    conf.write_bytes(kept)
    (host_dir / "elsewhere").rename(host_dir / f"private/{third.veid}")


@pytest.mark.any_kernel
def test_names_that_lead_elsewhere(host_dir: Path, make: Make) -> None:
    one, other = make(name="mars"), make(name="venus")
    (host_dir / "name/mars").unlink()
    (host_dir / "name/pluto").symlink_to(str(other.veid))
    expected = {one.veid: "its name mars does not lead to it"}
    expected[other.veid] = "the name pluto leads to it, and its own is venus"
    assert texts(host_dir) == expected
    mend(host_dir)
    assert os.readlink(host_dir / "name/mars") == str(one.veid)
    assert sorted(path.name for path in (host_dir / "name").iterdir()) == ["mars", "venus"]


@pytest.mark.any_kernel
def test_what_is_no_name_keeps_nobody_from_looking(state_dir: Path) -> None:
    (state_dir / "name/directory").mkdir(parents=True)
    (state_dir / "name/file").touch()
    assert troubles(state_dir, code=0) == troubles(state_dir, "--fix", code=0) == []


@pytest.mark.any_kernel
@pytest.mark.parametrize("of", ["a VE", "a pool"])
def test_a_file_that_is_half_written(
    host_dir: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """Who adds another pool is alone there, and so removes what looks like a living one's."""
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path))
    file = tmp_path / "web.toml" if of == "a pool" else host_dir / f"conf/{make().veid}.toml"
    gone, there = (file.with_name(f".{file.name}.{number}") for number in (2**22 + 1, os.getpid()))
    for path in (gone, there):
        path.write_text("half")
    [found] = troubles(host_dir)
    assert found["text"] == f"{gone} was half written by who was killed"
    mend(host_dir)
    assert there.exists() and not gone.exists()
    commandline.output(host_dir, "network", "add", "mars", "--cidr", "10.9.0.0/24")
    assert there.exists() == (of == "a VE") and (tmp_path / "mars.toml").exists()
    there.unlink(missing_ok=True)


@pytest.mark.any_kernel
def test_of_one_that_is_worked_on_nothing_is_said(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    kill(host_dir, env)
    with (host_dir / f"run/lock/{env.veid}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert troubles(host_dir, "--fix", code=0) == []
    mend(host_dir)


@pytest.mark.any_kernel
def test_sentences_for_people(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    kill(host_dir, env)
    done = commandline.run(host_dir, "doctor")
    line = f"trouble  {env.veid}: it does not run, and left of it is: facts, a cgroup"
    assert (done.returncode, done.stdout) == (1, f"{line}\n         cure: ve doctor --fix\n")
    assert done.stderr == "1 left to be mended\n"
    done = commandline.run(host_dir, "doctor", "--fix")
    assert (done.returncode, done.stdout) == (0, f"{line.replace('trouble ', 'mended  ')}\n")


@pytest.mark.any_kernel
def test_what_leads_to_the_addresses_of_a_killed_start(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> None:
    host.create(veid, template="busybox", publish=["8080:80"], addresses=["10.9.0.77"])
    words = [*hostnet.words, *commandline.words(host_dir, "start", veid)]
    with commandline.Process(words, env={**os.environ, "VE_FAULT": "facts:kill"}) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "10.9.0.77 . 80" in hostnet.run("nft", "list", "map", "inet", "ve", "published4").stdout
    done = hostnet.ve(host_dir, "doctor")
    assert done.returncode == 1
    assert f"{veid}: it does not run, and left of it is: " in done.stdout
    assert "what leads to its addresses" in done.stdout
    assert hostnet.ve(host_dir, "doctor", "--fix").returncode == 0
    assert "10.9.0.77" not in hostnet.run("nft", "list", "map", "inet", "ve", "published4").stdout
    assert hostnet.ve(host_dir, "doctor").returncode == 0


@pytest.mark.any_kernel
@pytest.mark.parametrize("family", ["inet", "bridge"])
@pytest.mark.parametrize("harm", ["flush ruleset", "flush table"])
def test_rules_that_somebody_has_flushed(
    bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int, family: str, harm: str
) -> None:
    if family == "bridge":
        host.create(veid, template="busybox", network="bridge:br0", addresses=["192.0.2.50/24"])
    else:
        host.create(veid, template="busybox", addresses=["10.9.0.77"])
    bridged.output(host_dir, "start", veid)
    try:
        assert bridged.ve(host_dir, "doctor").returncode == 0
        rules = bridged.run("nft", "-s", "list", "table", family, "ve").stdout
        bridged.run("nft", *harm.split(), *([family, "ve"] if harm.endswith("table") else []))
        done = bridged.ve(host_dir, "doctor", "--json")
        [found] = json.loads(done.stdout)
        text = f"nothing keeps VEs to their own addresses: the table {family} ve is gone or changed"
        assert (done.returncode, found["veid"], found["text"]) == (1, None, text)
        assert bridged.ve(host_dir, "doctor", "--fix").returncode == 0
        assert without_counts(bridged.run("nft", "-s", "list", "table", family, "ve").stdout) == without_counts(rules)
        assert bridged.ve(host_dir, "doctor").returncode == 0
    finally:
        bridged.ve(host_dir, "stop", "--fast", veid)
    bridged.run("nft", "flush", "ruleset")
    assert bridged.ve(host_dir, "doctor").returncode == 0


def without_counts(rules: str) -> str:
    """Who has sent something by now is an element, and another order of them is no other rule."""
    return re.sub(r"\n\t\telements = \{[^}]*\}", "", rules)


# ---- what a host keeps for VEs, and templates ------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_host_ids_of_one_that_was_removed_by_hand(host_dir: Path, make: Make) -> None:
    """And of one that has others by now; those of another state dir are not ours to give back."""
    env = make()
    [lease] = witness.leases(host_dir, env.veid)
    where, record = lease.parent, host_dir / f"lease/{env.veid}"
    mine, no_ve, theirs = (where / str(number) for number in (30001, 30003, 30005))
    mine.symlink_to(f"{host_dir}/conf/{env.veid}.toml")
    no_ve.symlink_to(f"{host_dir}/conf/77.toml")
    theirs.symlink_to(f"{host_dir}-of-others/conf/77.toml")
    text = "claimed for it, and not its: host ids, by"
    assert texts(host_dir) == {77: f"{text} {no_ve}", env.veid: f"{text} {mine}"}
    mend(host_dir)
    assert theirs.is_symlink() and not (mine.is_symlink() or no_ve.is_symlink())
    theirs.unlink()
    assert os.readlink(record) == lease.name and lease.is_symlink()


@pytest.mark.any_kernel
def test_host_ids_that_are_not_its_beside_other_troubles_of_it(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    kill(host_dir, env)
    [lease] = witness.leases(host_dir, env.veid)
    stray = lease.parent / "30001"
    stray.symlink_to(f"{host_dir}/conf/{env.veid}.toml")
    one, other = (str(each["text"]) for each in troubles(host_dir))
    assert one.startswith("it does not run, and left of it is:")
    assert other == f"claimed for it, and not its: host ids, by {stray}"
    mend(host_dir)
    assert lease.is_symlink() and not stray.is_symlink()


@pytest.mark.any_kernel
def test_an_address_of_one_that_was_removed_by_hand(
    host_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path))
    env = make(addresses=["10.9.0.77"])
    claims = tmp_path / "address"
    (claims / "10.9.0.78").symlink_to(f"{host_dir}/conf/{env.veid}.toml")
    (claims / "10.9.0.79").symlink_to(f"{host_dir}-of-others/conf/{env.veid}.toml")
    assert texts(host_dir) == {env.veid: f"claimed for it, and not its: an address, by {claims}/10.9.0.78"}
    mend(host_dir)
    assert sorted(path.name for path in claims.iterdir()) == ["10.9.0.77", "10.9.0.79"]


@pytest.mark.any_kernel
def test_half_a_template(host: "ve.Host", host_dir: Path, spare: str) -> None:
    """Of an add that goes on nothing is said."""
    store = Path(host.templates.path)
    tree, staging, live = store / "spare/2", store / ".new-dead", store / ".new-live"
    for path in (tree, staging, live):
        (path / "etc").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        fd = os.open(live, os.O_RDONLY)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        found = sorted(str(each["text"]) for each in troubles(host_dir))
        assert found == [f"{path} is half a template: who made or removed it was killed" for path in (staging, tree)]
        mend(host_dir)
        assert live.exists() and not (tree.exists() or staging.exists())
        assert host.templates.get(spare).path
    live.joinpath("etc").rmdir()
    live.rmdir()


@pytest.mark.any_kernel
@pytest.mark.parametrize("harm", ["its tree", "its metadata"])
def test_a_template_that_nobody_can_use(host: "ve.Host", host_dir: Path, spare: str, make: Make, harm: str) -> None:
    """It is said of the template and of the VE that was created from it."""
    path = Path(host.templates.get(spare).path)
    used = make(template=spare)
    toml = path.with_name(f"{path.name}.toml")
    if harm == "its tree":
        path.rename(host_dir / "elsewhere")
        text = f"cannot use template {spare}: its tree {path} is gone"
    else:
        kept = toml.read_bytes()
        toml.write_text("[")
        text = f"cannot read {toml}: "
    assert {each["veid"] for each in troubles(host_dir, "--fix")} == {used.veid, None}
    assert all(str(each["text"]).startswith(text) and each["cure"] for each in troubles(host_dir))
    if harm == "its tree":
        (host_dir / "elsewhere").rename(path)
    else:
        toml.write_bytes(kept)
    assert troubles(host_dir, code=0) == []


@pytest.mark.any_kernel
def test_files_of_pools_that_cannot_be_read(host_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is said, by line and key, and nothing is made of it; and so it is by who needs the pool."""
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path))
    (tmp_path / "mars.toml").write_text('version = 1\nnetworks = ["10.9.0.0/24"]\nnatt = true\n')
    (tmp_path / "venus.toml").write_text("version = 1\nnetworks = [\n")
    (tmp_path / "well.toml").write_text('version = 1\nnetworks = ["10.8.0.0/24"]\n')
    (tmp_path / "a b.toml").write_text("somebody else's\n")
    os.mkfifo(tmp_path / "world.toml")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.toml") if path.is_file()}
    mars = f"cannot read {tmp_path}/mars.toml: line 3: key natt: there is no such key"
    for options in ((), ("--fix",)):
        one, other, fifo = troubles(host_dir, *options)
        assert one == {"veid": None, "text": mars, "cure": "did you mean nat?", "mended": False}
        assert str(other["text"]).startswith(f"cannot read {tmp_path}/venus.toml: line 2: ")
        assert other["cure"] == "mend that file, or remove it, and ve network add venus again"
        assert fifo["text"] == f"cannot read {tmp_path}/world.toml: it is not a regular file"
    assert {path: path.read_bytes() for path in tmp_path.glob("*.toml") if path.is_file()} == before
    refused = commandline.run(host_dir, "network", "show", "mars")
    assert (refused.returncode, refused.stderr) == (14, f"ve: {mars}\nhint: did you mean nat?\n")
