"""The verbs that are typed most, as ve/_main.py and cli.py call them; what may be typed for them is in cli.py."""

from __future__ import annotations

from ve import _output as out
from ve import errors
from ve._session import Once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import ve
    from ve._session import Session


def start(here: Session, keys: list[str], ready: Sequence[str] | None = None, timeout: float = 60.0) -> int:
    """ready: what those that were started are waited for until; None is nothing, as none is for wait_ready to say."""
    started: list[str] = []

    def begin(env: ve.Environment) -> None:
        env.start()
        started.append(here.target)

    here.each(keys, "is running; a reboot from inside will end it", begin)
    if ready is not None and started:
        here.each(started, "is ready", lambda env: env.wait_ready(*ready, timeout=timeout))
    return here.code


def stop(here: Session, keys: list[str], fast: bool = False, timeout: float = 60.0) -> int:
    late = "is stopped by a kill, as its own shutdown took too long"
    return here.each(keys, "is stopped", lambda env: env.stop(timeout, fast=fast) or fast or late)


def run(
    here: Session,
    template: str,
    command: Sequence[str] | None,
    user: str | None = None,
    cwd: str | None = None,
    asked: Mapping[str, Any] | None = None,
) -> int:
    return here.ended(here.host(template).run(template, command or (), user=user, cwd=cwd, **asked or {}))


def exec_(
    here: Session,
    key: str,
    command: Sequence[str] | None,
    user: str | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    if not command:
        raise errors.InvalidValue(
            f"cannot run a command in {key}: none was given", hint=f"ve enter {key} opens a shell"
        )
    return here.ended(here.get(key).call(command, user=user, cwd=cwd, env=env))


def list_(here: Session, output: str = out.LIST_DEFAULT, bare: bool = False, as_json: bool = False) -> int:
    host = here.host("VEs")
    table = out.choose_fields(output, lambda: _beancounters(here, host))
    envs: list[Any] = [Once(env) for env in host.list()]
    print(out.render(table, Once.each(envs), as_json, header=not bare), end="")
    for of in ("config", "traffic") if {"sent", "received"} & {*table} else ("config",):
        here.pass_over_all(out.broken(env, of) for env in envs)
    return here.code


def _beancounters(here: Session, host: ve.Host) -> out.Fields:
    from ve import _ubc as beans

    return beans.list_fields(host, here.pass_over)


def ubc(here: Session, key: str | None = None, quiet: bool = False, watch: bool = False, as_json: bool = False) -> int:
    from ve import _ubc as beans

    host, veid = here.host("VEs"), here.veid(key)
    for _ in beans.again(watch):
        rows = beans.rows(host, veid, quiet, here.pass_over)
        print(out.render(beans.UBC, rows, as_json) if as_json else beans.table(rows), end="", flush=True)
        for remark in () if as_json or watch else beans.remarks(rows):
            here.say(remark)
    return here.code
