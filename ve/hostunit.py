"""On a host with systemd: the unit whose cgroup is ours (Delegate=), for as long as the host is up.

It has no process.  KillMode=process lets its end, as at shutdown, leave VEs to who stops them in their own way.
"""

import os

from ve.errors import NotSupported

UNIT = "ve-host.service"
_BOOTED = "/run/systemd/system"  # sd_booted(3)
_ACTIVE = f"/run/systemd/units/invocation:{UNIT}"  # systemd.exec(5): of each unit that is active, for the journal


def place() -> str:
    """Where its cgroup is, below the root of cgroup2: "" where systemd does not run."""
    return f"/system.slice/{UNIT}" if os.path.isdir(_BOOTED) else ""


def have() -> None:
    """The unit, made to be there; nothing where systemd does not run.  NotSupported if systemd has none for us."""
    if not os.path.isdir(_BOOTED) or os.path.lexists(_ACTIVE):
        return
    import subprocess  # once, for all VEs

    settings = ("Type=oneshot", "RemainAfterExit=yes", "Delegate=yes", "KillMode=process")
    words = ["systemd-run", "--quiet", f"--unit={UNIT}", "--description=Cgroups of Virtual Environments"]
    words += [*(f"--property={each}" for each in settings), "true"]
    if os.path.exists(f"/run/systemd/transient/{UNIT}"):  # somebody has stopped it, and VEs go on in it
        words = ["systemctl", "start", UNIT]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        why = done.stderr.strip().replace("\n", "; ") if done.returncode else ""
    except FileNotFoundError:
        why = f"{words[0]} is missing"
    if why and not os.path.lexists(_ACTIVE):  # somebody else may have started it meanwhile
        raise NotSupported(f"cannot have the unit {UNIT} of systemd: {why}", hint="systemctl status, and journalctl -e")
