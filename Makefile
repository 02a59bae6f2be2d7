# What `make` can do here; `make help` lists it.  Everything is installed from Debian and PyPI, and needs root once.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

KERNEL ?= 6.1
# Not the first python3 in PATH: the venv must outlive whatever version switcher that one belongs to.
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -e
# Some images set it, and every command that a test runs would be compiled again.  Empty is unset.
export PYTHONDONTWRITEBYTECODE :=

# python-prctl is compiled, pyseccomp calls libseccomp; the templates are made with the second line.
PACKAGES := python3 python3-venv python3-dev gcc libc6-dev libcap-dev libseccomp2 \
	busybox-static catatonit mmdebstrap skopeo umoci libarchive-tools nftables
# What the tests make archives and file systems with, and look from outside with.
TEST_PACKAGES := tar gzip xz-utils zstd bzip2 attr acl e2fsprogs qemu-utils util-linux libcap2-bin openssl \
	openssh-client iproute2 iptables procps quota xfsprogs btrfs-progs iperf3 curl iputils-ping tcpdump strace
# file tells virtme-ng a kernel's version; busybox-static and zstd make its initramfs; podman's container is in it.
VM_PACKAGES := qemu-system-x86 kmod udev busybox-static zstd file debian-archive-keyring podman crun catatonit

# Whom ve is measured beside, and what that takes.
BENCH_PACKAGES := crun runc lxc podman util-linux bubblewrap systemd-container iproute2 procps
SUITE_PACKAGES := podman crun netavark iptables nftables iproute2 catatonit mmdebstrap zstd
QUICK_PACKAGES := util-linux iproute2 strace valgrind

# Installs those of $(1) that are missing.
install = have=" $$(dpkg-query -W -f='$${db:Status-Status}:$${Package} ' $(1) 2>/dev/null || true)"; missing=; \
	for each in $(1); do [[ "$$have" == *" installed:$$each "* ]] || missing+=" $$each"; done; \
	if [ -n "$$missing" ]; then \
		echo "==> installing Debian packages:$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

.PHONY: setup
setup: packages $(VENV)/.setup ## install what ve needs and this machine lacks; leaves the command at .venv/bin/ve
	@echo "==> ready: $(BIN)/ve"

.PHONY: packages
packages:
	@$(call install,$(PACKAGES))

$(VENV)/.setup: pyproject.toml | packages
	@echo "==> making $(VENV), with the project in it"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) .
	@touch $@

.PHONY: setup-test
setup-test: setup test-packages $(VENV)/.setup-test ## install what the tests need besides

.PHONY: test-packages
test-packages:
	@$(call install,$(TEST_PACKAGES))

$(VENV)/.setup-test: $(VENV)/.setup
	@echo "==> installing pytest, mypy and the like into $(VENV)"
	@$(PIP) '.[test]'
	@touch $@

.PHONY: setup-vm
setup-vm: setup-test vm-packages $(VENV)/.setup-vm ## install what make test-vm needs besides

.PHONY: vm-packages
vm-packages:
	@$(call install,$(VM_PACKAGES))

$(VENV)/.setup-vm: $(VENV)/.setup-test
	@echo "==> installing virtme-ng into $(VENV)"
	@$(PIP) '.[test,vm]'
	@touch $@

.PHONY: demo
demo: setup ## make a template, look into a VE from inside and outside, clean up
	@scripts/demo.sh $(BIN)

.PHONY: lint
lint: setup-test ## ruff and mypy --strict (make test has them too)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: test
test: setup-vm ## every test on this kernel and, at the same time, what depends on the kernel on a stock Debian 6.1
	@echo "==> testing on this machine's kernel and on a stock one: what is said of either is shown when it is done"
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-native test-vm

NATIVE := tests/unit tests/fuzz tests/kernel tests/verbs tests/attacks tests/faults

.PHONY: test-native
test-native: setup-test ## every test on this kernel
	@echo "==> testing on this machine's kernel, $$(uname -r)"
	@$(BIN)/python -m pytest $(if $(findstring tests/,$(PYTEST_ARGS)),,$(NATIVE)) $(PYTEST_ARGS)

.PHONY: test-vm
test-vm: setup-vm ## what depends on the kernel on a stock one, most of it in podman there; slow: KERNEL=6.1, 6.12 or 7
	@$(BIN)/python -m tests.vm $(KERNEL) $(PYTEST_ARGS)
	@$(if $(findstring tests/,$(PYTEST_ARGS)),,$(BIN)/python -m tests.vm $(KERNEL) --podman $(PYTEST_ARGS))

.PHONY: test-faults
test-faults: setup-test ## every verb broken at each of its effects, twenty at once, a thousand cycles: make test takes some
	@VE_TEST_FAULTS=$${VE_TEST_FAULTS:-all} VE_TEST_SECONDS=$${VE_TEST_SECONDS:-600} VE_TEST_CYCLES=1000 \
		$(BIN)/python -m pytest tests/faults -s -o timeout=3600 $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: setup-test ## bad input by the thousand: each file and word we read, archives, command lines; make test takes a tenth
	@VE_TEST_FUZZ=$${VE_TEST_FUZZ:-10} $(BIN)/python -m pytest tests/fuzz -o timeout=3600 $(PYTEST_ARGS)

.PHONY: test-long
test-long: setup-vm ## what takes so long that make test leaves it out: some on this kernel, the rest on the stock one
	@VE_TEST_ROUNDS=1000 $(BIN)/python -m pytest tests/kernel/test_leases.py -k rounds -s
	@$(BIN)/python -m tests.vm $(KERNEL) tests/limits tests/kernel -m long $(PYTEST_ARGS)
	@$(BIN)/python -m tests.vm $(KERNEL) tests/kernel -m "not any_kernel and not long" $(PYTEST_ARGS)
	@VE_TEST_SECONDS=600 $(BIN)/python -m tests.vm $(KERNEL) tests/faults/test_at_once.py -s $(PYTEST_ARGS)
	@$(BIN)/python -m tests.vm $(KERNEL) tests/verbs tests/attacks -m "not any_kernel and not long" $(PYTEST_ARGS)
	@VE_TEST_KILLS=50 VE_TEST_SUITE=200 $(BIN)/python -m pytest tests/verbs/test_pytest_plugin.py -o timeout=3600 \
		-k "killed or workers" $(PYTEST_ARGS)
	@$(BIN)/python -m tests.vm $(KERNEL) --podman tests/limits -m "not any_kernel and not long" $(PYTEST_ARGS)
	@$(BIN)/python -m tests.vm $(KERNEL) --podman tests/verbs -m "not any_kernel and not long" $(PYTEST_ARGS)
	@KERNEL=$(KERNEL) $(BIN)/python -m pytest tests/vm -s $(PYTEST_ARGS)

.PHONY: bench
bench: setup bench-packages $(VENV)/.setup-bench ## the table of docs/speed.md anew, peers included; ROWS="exec life" prints some
	@$(BIN)/python -m bench $(ROWS) $(BENCH_ARGS) $(if $(ROWS),,--results bench/results.json)
	@$(if $(ROWS),,$(BIN)/python -m bench.report bench/results.json)

.PHONY: bench-quick
bench-quick: setup quick-packages ## system calls of each operation, which noise does not move; OTHERS="10 100 1000" VEs beside
	@$(BIN)/python -m bench --quick --others $(or $(OTHERS),10 100)

.PHONY: bench-suite
bench-suite: setup suite-packages $(VENV)/.setup-suite ## 200 tests, each with a PostgreSQL of its own: beside testcontainers with podman
	@$(BIN)/python -m bench.suite $(SUITE_ARGS)

.PHONY: bench-packages
bench-packages:
	@$(call install,$(BENCH_PACKAGES))

.PHONY: suite-packages
suite-packages:
	@$(call install,$(SUITE_PACKAGES))

.PHONY: quick-packages
quick-packages:
	@$(call install,$(QUICK_PACKAGES))

$(VENV)/.setup-bench: $(VENV)/.setup
	@echo "==> installing matplotlib into $(VENV)"
	@$(PIP) '.[bench]'
	@touch $@

$(VENV)/.setup-suite: $(VENV)/.setup
	@echo "==> installing pytest, psycopg and testcontainers into $(VENV)"
	@$(PIP) '.[suite]'
	@touch $@

.PHONY: clean
clean: ## remove what make made here, downloaded kernels included
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
