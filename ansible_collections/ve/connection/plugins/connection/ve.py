# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How Ansible works in a VE: commands by exec, files by its stdin and stdout."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

import ve

DOCUMENTATION = """
name: ve
short_description: Run tasks in a Virtual Environment of this host
description:
  - Runs commands in a running VE and copies files to and from it, with no SSH daemon in it.
  - Ansible must run as root on the host of the VE, and with the Python that the package ve is installed for.
author: the ve project
version_added: "0.1.0"
options:
  remote_addr:
    description: VEID or name of the VE.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_ve_host
  remote_user:
    description: The user of the VE that commands run as; its root if there is none.
    vars:
      - name: ansible_user
      - name: ansible_ve_user
    ini:
      - section: defaults
        key: remote_user
    env:
      - name: ANSIBLE_REMOTE_USER
    cli:
      - name: user
    keyword:
      - name: remote_user
  executable:
    description: The shell in the VE.
    default: /bin/sh
    vars:
      - name: ansible_executable
      - name: ansible_ve_executable
  state_dir:
    description: The state directory of the VE; that of the command ve if it is not given.
    type: path
    vars:
      - name: ansible_ve_state_dir
    env:
      - name: VE_STATE_DIR
notes:
  - A password for become is not asked for; root, which is the default, needs none.
"""

_display = Display()
_PUT, _FETCH = 'exec cat >"$0"', 'exec cat <"$0"'  # as the user who may, or may not


class Connection(ConnectionBase):
    """One VE, which is looked up for each task: it may have been started by the one before."""

    transport = "ve"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def close(self) -> None:
        self._connected = False

    def reset(self) -> None:
        """There is nothing that stays."""

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Its code, as a shell tells it, stdout and stderr."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        _display.vvv(f"EXEC {cmd}", host=self.get_option("remote_addr"))
        done = self._run(to_bytes(cmd, errors="surrogate_or_strict"), input=in_data or b"", capture_output=True)
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return code, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        _display.vvv(f"PUT {in_path} TO {out_path}", host=self.get_option("remote_addr"))
        try:
            file = open(to_bytes(in_path, errors="surrogate_or_strict"), "rb")  # noqa: SIM115
        except FileNotFoundError as error:
            raise AnsibleFileNotFound(f"file or module does not exist: {in_path}") from error
        with file:
            self._copy("write", _PUT, out_path, stdin=file)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        _display.vvv(f"FETCH {in_path} TO {out_path}", host=self.get_option("remote_addr"))
        with open(to_bytes(out_path, errors="surrogate_or_strict"), "wb") as file:
            self._copy("read", _FETCH, in_path, stdin=subprocess.DEVNULL, stdout=file)

    def _copy(self, verb: str, script: str, path: str, **streams: Any) -> None:
        argument = to_bytes(os.path.join("/", path), errors="surrogate_or_strict")
        done = self._run(script.encode(), argument, stderr=subprocess.PIPE, **streams)
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip()
            raise AnsibleError(f"cannot {verb} {path} in {self.get_option('remote_addr')}: {why}")

    def _run(self, script: bytes, *arguments: bytes, **options: Any) -> Any:
        with self._told():
            environment = ve.Host(self.get_option("state_dir")).get(self.get_option("remote_addr"))
            words = [self.get_option("executable"), "-c", script, *arguments]
            return environment.run(words, user=self.get_option("remote_user"), **options)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What is wrong with the VE, or with the way in, as Ansible has it: the host is unreachable."""
        try:
            yield
        except ve.Error as error:
            raise AnsibleConnectionFailure(f"{error} ({error.hint})" if error.hint else str(error)) from error
        except OSError as error:
            raise AnsibleConnectionFailure(
                f"cannot run a command in {self.get_option('remote_addr')}: {error}"
            ) from error
