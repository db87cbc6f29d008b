# SPDX-License-Identifier: Apache-2.0
# Two commands on a fresh machine, as root: `make demo` shows it, `make test` proves it. Both install what they need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PREFIX ?= /usr/local
TRIPLE := $(shell uname -m)-unknown-linux-gnu
TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO := ./tests/with-toolchain cargo
# The shim is static and at a fixed address: it starts in half the time and shares nearly all of its memory.
SHIM := $(TARGET)/$(TRIPLE)/shim/berth-shim

.PHONY: all build release shim setup demo test unit blackbox check fmt clippy deny bench trace soak test-reference interop fuzz test-v2 test-disks test-kernels test-vm fixtures install clean

all: release shim

setup:
	@./tests/setup

build: setup
	$(CARGO) build --locked --workspace --bins

shim: setup
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" $(CARGO) build --locked --profile shim --target $(TRIPLE) -p berth-shim

release: setup
	$(CARGO) build --locked --release -p berthd -p berth

demo: release shim
	@./tests/demo $(TARGET)/release $(SHIM)

fixtures: build
	$(TARGET)/debug/fixtures

# Everything that CI runs.
test: check unit blackbox

unit: setup
	$(CARGO) test --locked --workspace --exclude berth-tests

blackbox: build shim fixtures
	BERTH_SHIM=$(abspath $(SHIM)) $(CARGO) test --locked -p berth-runtime --test real_shim -- --ignored
	BERTH_TEST_SHIM=$(abspath $(SHIM)) $(CARGO) test --locked -p berth-tests

# The long forms: many rounds, many containers, minutes to hours; FILTER picks some.
soak: build shim fixtures
	BERTH_TEST_SHIM=$(abspath $(SHIM)) $(CARGO) test --locked -p berth-tests --test blackbox -- --ignored --test-threads=1 $(FILTER)

check: fmt clippy deny

fmt: setup
	$(CARGO) fmt --all --check

# Warnings are errors up to the newest clippy that the code was held to; a newer one's new lints only warn.
CLIPPY_HELD_TO := 95
clippy: setup
	@minor=$$($(CARGO) --version | cut -d. -f2); strict=; ((minor > $(CLIPPY_HELD_TO))) || strict="-D warnings"; \
	set -x; $(CARGO) clippy --locked --workspace --all-targets -- $$strict

deny: setup
	@./tests/check-dependencies

# The same black-box tests against the reference engine (PEERS starts it beside the host's system).
test-reference: build fixtures
	@./tests/reference $(TARGET)/debug $(CARGO) test --locked -p berth-tests --test blackbox -- --test-threads=1 $(FILTER)

# Images between Berth, Docker, Podman, skopeo and crane, which PEERS brings.
interop: build shim fixtures
	@./tests/interop $(TARGET)/debug $(SHIM)

# The black-box tests on the unified cgroup hierarchy and Debian's kernel, in a virtual machine; FILTER picks some.
test-vm: build shim fixtures
	$(CARGO) test --locked -p berth-tests --test blackbox --no-run
	@./tests/vm $(TARGET)/debug $(SHIM) $(FILTER)

# The core of them on the unified hierarchy, laid out by us and by systemd: what CI's own hierarchy does not show.
CORE := cgroups:: limits:: exec::exec_ crash::containers_outlive crash::a_dead_shim crash::sigterm
test-v2: build shim fixtures
	$(CARGO) test --locked -p berth-tests --test blackbox --no-run
	@./tests/vm $(TARGET)/debug $(SHIM) $(CORE)
	@VM_INIT=systemd ./tests/vm $(TARGET)/debug $(SHIM) $(CORE)

# What of files other machines' kernels lack: quotas on ext4 and xfs, NFS, CIFS; and many layers as kernels before 6.5 take them.
DISKS := files_quota:: files_disks:: files_layers:: files_idmap:: files_mounts:: files_volumes::
test-disks: build shim fixtures
	$(CARGO) test --locked -p berth-tests --test blackbox --no-run
	@VM_ALL=1 ./tests/vm $(TARGET)/debug $(SHIM) $(DISKS)

# Networks on a kernel that has what build machines' kernels lack (VLANs, dummy links, SCTP, iptables-legacy), and on one without nftables.
test-kernels: build shim fixtures
	$(CARGO) test --locked -p berth-tests --test blackbox --no-run
	@VM_ALL=1 VM_BEFORE="/opt/bin/blackbox --ignored network_kernels::" ./tests/vm $(TARGET)/debug $(SHIM) network_kernels::

# Targets for what reads strangers' bytes, a minute each, on the stable compiler; FUZZ_SECONDS and TARGETS choose.
FUZZ_SECONDS ?= 60
fuzz: setup
	CARGO_TARGET_DIR=$(abspath $(TARGET))/fuzz $(CARGO) run --locked --manifest-path tests/fuzz/Cargo.toml --bin mutate -- $(FUZZ_SECONDS) $(TARGETS)

# Berth beside its peers (PEERS starts them); FILTER picks rows, BENCH_LONG=1 takes those that take minutes too.
bench: release shim
	$(CARGO) build --locked --release -p berth-tests --bins
	@./tests/run-bench $(TARGET) $(SHIM) "$(FILTER)"

# Where the time of one start goes, as a chart.
trace: release shim
	$(CARGO) build --locked --release -p berth-tests --bins
	BERTH_TEST_SHIM=$(abspath $(SHIM)) BERTH_TEST_BIN=$(abspath $(TARGET))/release $(TARGET)/release/trace $(TARGET)/bench

install: release shim
	install -D -m 0755 $(TARGET)/release/berthd $(DESTDIR)$(PREFIX)/bin/berthd
	install -D -m 0755 $(TARGET)/release/berth $(DESTDIR)$(PREFIX)/bin/berth
	install -D -m 0755 $(SHIM) $(DESTDIR)/usr/libexec/berth/berth-shim
	sed 's|/usr/bin/berthd|$(PREFIX)/bin/berthd|' systemd/berth.service | install -D -m 0644 /dev/stdin $(DESTDIR)/etc/systemd/system/berth.service
	install -D -m 0644 systemd/berth.socket $(DESTDIR)/etc/systemd/system/berth.socket
	@if [[ -z "$(DESTDIR)" ]]; then getent group berth >/dev/null || groupadd --system berth; fi

clean:
	$(CARGO) clean
