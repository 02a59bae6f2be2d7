"""Each wall, as somebody in the VE meets it, and as the kernel's files count it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve.errors import StartFailed

PAGE = 4096
MIB = 1 << 20
Limited = Callable[..., "ve.Environment"]


def eaten(env: "ve.Environment", *words: object, user: str = "root") -> tuple[int, str]:
    """How many it got, and the error that ended it."""
    done = env.run(["/eat", *map(str, words)], capture_output=True, text=True, user=user)
    assert done.returncode == 0, done
    count, error = done.stdout.split()
    return int(count), error


def counter(host_dir: Path, env: "ve.Environment", file: str, key: str = "") -> int:
    """A number in a file of its cgroup."""
    text = (commandline.cgroup(host_dir, env.veid) / file).read_text()
    found = re.search(rf"^{key} ([0-9]+)$", text, re.MULTILINE) if key else re.search("[0-9]+", text)
    assert found, (file, text)
    return int(found[1] if key else found[0])


def refused_forks(host_dir: Path, env: "ve.Environment") -> int:
    local = commandline.cgroup(host_dir, env.veid) / "pids.events.local"
    return counter(host_dir, env, "pids.events.local" if local.exists() else "pids.events", "max")


@pytest.mark.container
@pytest.mark.bears_out(numproc="exact")
def test_a_fork_bomb_stops_at_numproc(host_dir: Path, limited: Limited) -> None:
    env, neighbour = limited(numproc="60"), limited()
    with env.popen(["/eat", "process", "500", "hold"], stdin=-1, stdout=-1, text=True) as bomb:
        assert bomb.stdout and bomb.stdin
        got, error = bomb.stdout.readline().split()
        assert error == "EAGAIN"
        assert counter(host_dir, env, "pids.current") == 60
        assert 40 < int(got) < 60  # less its init and what else runs
        bean = env.beancounters()["numproc"]
        assert (bean.held, bean.maxheld, bean.barrier, bean.limit) == (60, 60, 60, 60)
        assert not bean.sampled
        assert bean.failcnt == refused_forks(host_dir, env) > 0
        assert eaten(neighbour, "process", 100) == (100, "0")
        bomb.stdin.close()
        bomb.wait()


def test_who_cannot_enter_a_full_ve_is_told_why(host_dir: Path, limited: Limited) -> None:
    env = limited(numproc="30")
    with env.popen(["/eat", "process", "500", "hold"], stdin=-1, stdout=-1, text=True) as bomb:
        assert bomb.stdout and bomb.stdin
        assert bomb.stdout.readline().split()[1] == "EAGAIN"
        refused = commandline.run(host_dir, "exec", env.veid, "true")
        assert refused.returncode == 125
        sentence, hint = refused.stderr.splitlines()
        assert re.fullmatch(f"ve: cannot enter {env.veid}: its numproc (29|30) of 30 is used up", sentence)
        assert hint == f"hint: ve set {env.veid} --numproc N gives it more"
        commandline.output(host_dir, "set", env.veid, "--numproc", "40")
        assert commandline.run(host_dir, "exec", env.veid, "true").returncode == 0
        bomb.stdin.close()
        bomb.wait()


@pytest.mark.bears_out(numproc="exact")
def test_numproc_counts_all_users_of_a_ve(host_dir: Path, limited: Limited) -> None:
    env = limited(numproc="60")
    with env.popen(["/eat", "process", "30", "hold"], stdin=-1, stdout=-1, text=True, user=1000) as first:
        assert first.stdout and first.stdin and first.stdout.readline() == "30 0\n"
        got, error = eaten(env, "process", 100, user="1001")
        assert error == "EAGAIN"
        assert got < 30
        first.stdin.close()
        first.wait()


@pytest.mark.container
@pytest.mark.bears_out(physpages="exact")
def test_an_allocation_over_memory_is_killed(host_dir: Path, limited: Limited) -> None:
    env, neighbour = limited(memory="64M", swap="0"), limited()
    done = env.run(["/eat", "memory", str(128 * MIB // PAGE)], capture_output=True)
    assert done.returncode == -9
    assert counter(host_dir, env, "memory.max") == 64 * MIB
    assert counter(host_dir, env, "memory.events", "oom_kill") == 1
    beans = env.beancounters()
    assert beans["physpages"].limit == 64 * MIB // PAGE
    assert beans["physpages"].failcnt == counter(host_dir, env, "memory.events.local", "max") > 0
    assert beans["oomguarpages"].failcnt == 1
    assert beans["physpages"].maxheld == -(-counter(host_dir, env, "memory.peak") // PAGE)
    assert witness.shell(env, "echo it goes on") == "it goes on\n"
    assert eaten(neighbour, "memory", 1000) == (1000, "0")


@pytest.mark.bears_out(privvmpages="close")
def test_private_memory_over_privvmpages_is_killed(host_dir: Path, limited: Limited) -> None:
    env = limited(privvmpages=f"{32 * MIB // PAGE}:{64 * MIB // PAGE}")
    assert counter(host_dir, env, "memory.high") == 32 * MIB
    walls = [counter(host_dir, env, file) for file in ("memory.max", "memory.swap.max")]
    assert sum(walls) == 64 * MIB
    assert eaten(env, "memory", 16 * MIB // PAGE) == (16 * MIB // PAGE, "0")
    done = env.run(["/eat", "memory", str(128 * MIB // PAGE)], capture_output=True)
    assert done.returncode == -9
    assert counter(host_dir, env, "memory.events", "oom_kill") == 1


@pytest.mark.bears_out(kmemsize="accounting only", dcachesize="accounting only")
def test_what_the_kernel_has_for_a_ve_is_counted(host_dir: Path, limited: Limited) -> None:
    """kmemsize and dcachesize: names that are looked up stay in the cache of directories."""
    env = limited()
    before = env.beancounters()
    witness.shell(env, "for i in $(seq 3000); do : <>/f$i; done")
    after = env.beancounters()
    for name, key in (("kmemsize", "kernel"), ("dcachesize", "slab_reclaimable")):
        old, new = before[name].held, after[name].held
        assert old and new and new > old + 500_000
        assert abs(new - counter(host_dir, env, "memory.stat", key)) < new * 0.1
        assert after[name].sampled and after[name].failcnt is None


def test_oom_ve_ends_all_of_it(host_dir: Path, limited: Limited) -> None:
    env = limited(memory="64M", swap="0", oom="ve")
    env.run(["/eat", "memory", str(128 * MIB // PAGE)], capture_output=True)
    witness.wait_stopped(env)


@pytest.mark.bears_out(physpages="exact")
def test_a_barrier_slows_and_is_no_wall(host_dir: Path, limited: Limited) -> None:
    env = limited(physpages=f"{8 * MIB // PAGE}:{256 * MIB // PAGE}")
    assert counter(host_dir, env, "memory.high") == 8 * MIB
    assert eaten(env, "memory", 10 * MIB // PAGE) == (10 * MIB // PAGE, "0")
    assert counter(host_dir, env, "memory.events", "high") > 0
    assert counter(host_dir, env, "memory.events", "oom_kill") == 0


def test_a_limit_of_private_memory_is_the_one_that_is_told(host_dir: Path, limited: Limited) -> None:
    """And not that of physpages, with which it shares the kernel's files, and which nobody asked for."""
    env = limited(privvmpages=f"{32 * MIB // PAGE}:{64 * MIB // PAGE}")
    assert (counter(host_dir, env, "memory.high"), counter(host_dir, env, "memory.max")) == (32 * MIB, 64 * MIB)
    with env.popen(["/eat", "mapped", str(256 * MIB // PAGE), "hold"], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == f"{256 * MIB // PAGE} 0\n"
        beans = env.beancounters()
        used = counter(host_dir, env, "memory.current") // PAGE
        held = beans["privvmpages"].held
        assert held is not None and abs(held - used) < 4 * MIB // PAGE  # what nobody has touched is not held
        process.stdin.close()
        process.wait()
    assert "barrier" not in {each.kind for each in ve.Host(host_dir).events(env.veid)}
    unlimited = 2**63 - 1
    assert (beans["physpages"].barrier, beans["physpages"].limit) == (unlimited, unlimited)
    assert beans["physpages"].failcnt is None
    assert (beans["privvmpages"].barrier, beans["privvmpages"].limit) == (32 * MIB // PAGE, 64 * MIB // PAGE)
    done = env.run(["/eat", "memory", str(128 * MIB // PAGE)], capture_output=True)
    assert (done.returncode, done.stopped_by) == (-9, "privvmpages")
    assert env.beancounters()["privvmpages"].failcnt == counter(host_dir, env, "memory.events.local", "max") > 0
    told = [(each.resource, each.kind) for each in ve.Host(host_dir).events(env.veid)]
    assert ("privvmpages", "failure") in told and ("physpages", "failure") not in told


def test_a_start_that_runs_out_of_memory_says_so(host_dir: Path, make: Make) -> None:
    env = make(memory="64M", swap="0")
    path = host_dir / f"conf/{env.veid}.toml"
    path.write_text(path.read_text().replace('memory = "64M"', 'memory = "4K"'))
    with pytest.raises(StartFailed, match=r"its memory was used up before its init ran$") as failed:
        env.start()  # not by the command, which has a minute: with so little the kernel is long at it
    assert (failed.value.exit_code, failed.value.hint) == (47, "--memory gives it more")
    assert not commandline.cgroup(host_dir, env.veid).exists()


def test_a_second_devpts_has_a_limit_of_its_own(limited: Limited) -> None:
    """So numpty is close, and what is held is of both."""
    env = limited(numpty="3")
    second = "mkdir /pts && mount -t devpts -o newinstance,ptmxmode=666 devpts /pts && mount --bind /pts/ptmx /dev/ptmx"
    witness.shell(env, second)
    with env.popen(["/eat", "pty", "10", "hold"], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "10 0\n"
        assert env.beancounters()["numpty"].held == 10
        process.stdin.close()
        process.wait()


@pytest.mark.bears_out(numpty="close")
def test_numpty_is_the_number_that_was_set(limited: Limited) -> None:
    env = limited(numpty="3")
    assert eaten(env, "pty", 10) == (3, "ENOSPC")
    with env.popen(["/eat", "pty", "2", "hold"], stdin=-1, stdout=-1, text=True) as first:
        assert first.stdout and first.stdin and first.stdout.readline() == "2 0\n"
        assert env.beancounters()["numpty"].held == 2
        assert eaten(env, "pty", 10, user="1000") == (1, "ENOSPC")
        first.stdin.close()
        first.wait()


@pytest.mark.bears_out(numsiginfo="exact")
def test_numsiginfo_is_the_number_that_was_set_for_all_users(limited: Limited) -> None:
    env = limited(numsiginfo="20")
    with env.popen(["/eat", "queued", "15", "hold"], stdin=-1, stdout=-1, text=True, user=1000) as first:
        assert first.stdout and first.stdin and first.stdout.readline() == "15 0\n"
        assert env.beancounters()["numsiginfo"].held == 15
        assert eaten(env, "queued", 100, user="1001") == (5, "EAGAIN")
        first.stdin.close()
        first.wait()
    assert eaten(env, "queued", 100) == (20, "EAGAIN")


@pytest.mark.bears_out(lockedpages="close")
def test_lockedpages_is_the_limit_of_each_process(limited: Limited) -> None:
    env = limited(lockedpages="16")
    assert eaten(env, "locked", 100) == (16, "ENOMEM")
    assert eaten(env, "locked", 100, user="1000") == (16, "ENOMEM")


def test_nofile_is_the_limit_of_each_process(limited: Limited) -> None:
    env = limited(nofile="32")
    got, error = eaten(env, "file", 100)
    assert (got, error) == (29, "EMFILE")  # and three standard descriptors


@pytest.mark.bears_out(shmpages="close")
def test_shmpages_is_the_number_that_was_set_for_all_users(limited: Limited) -> None:
    env = limited(shmpages="25")
    assert eaten(env, "shared", 100) == (25, "ENOSPC")
    with env.popen(["/eat", "shared", "15", "hold"], stdin=-1, stdout=-1, text=True, user=1000) as first:
        assert first.stdout and first.stdin and first.stdout.readline() == "15 0\n"
        assert env.beancounters()["shmpages"].held == 15
        assert eaten(env, "shared", 100, user="1001") == (10, "ENOSPC")
        first.stdin.close()
        first.wait()
    witness.says_no(env, "echo 1000 >/proc/sys/kernel/shmall")


def test_an_ipc_namespace_in_the_ve_passes_shmpages(limited: Limited) -> None:
    """As the manual says, and why its grade is no better than close; what is there is in physpages."""
    env = limited(shmpages="25")
    words = ["unshare", "--user", "--ipc", "/eat", "shared", "100", "hold"]
    with env.popen(words, stdin=-1, stdout=-1, text=True, user=1000) as other:
        assert other.stdout and other.stdin and other.stdout.readline() == "100 0\n"
        assert env.beancounters()["shmpages"].held == 0
        other.stdin.close()
        other.wait()


def cached(host_dir: Path, env: "ve.Environment") -> int:
    return counter(host_dir, env, "memory.stat", "file")


@pytest.mark.bears_out(vmguarpages="close", oomguarpages="close")
def test_a_guarantee_holds_against_a_neighbour(host_dir: Path, limited: Limited) -> None:
    """All VEs together get 96 MiB, and one wants more than is left: the page cache of who has a guarantee stays.

    What it wants is no page cache itself, which 6.12 would rather take back from it than from others.
    """
    all_of_them = commandline.cgroup(host_dir, 0).parent
    guaranteed, never, other, greedy = limited(vmguarpages="24M"), limited(oomguarpages="24M"), limited(), limited()
    assert int((all_of_them / "memory.low").read_text()) == 24 * MIB
    assert int((all_of_them / "memory.min").read_text()) == 24 * MIB
    fill = "dd if=/dev/zero of=/file bs=1M count=16 conv=fsync 2>/dev/null"
    try:
        (all_of_them / "memory.max").write_text(str(96 * MIB))
        for env in (guaranteed, never, other):
            witness.shell(env, fill)
        before = cached(host_dir, guaranteed)
        assert before > 12 * MIB
        assert eaten(greedy, "memory", 54 * MIB // PAGE) == (54 * MIB // PAGE, "0")
        assert cached(host_dir, guaranteed) > before * 0.9
        assert cached(host_dir, never) > before * 0.9
        assert cached(host_dir, other) < before * 0.6
    finally:
        (all_of_them / "memory.max").write_text("max")
    guaranteed.set(vmguarpages="")
    assert int((all_of_them / "memory.low").read_text()) == 0
    never.set(oomguarpages="")
    assert int((all_of_them / "memory.min").read_text()) == 0
