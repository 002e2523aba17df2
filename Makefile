# gridpilot: what one types. `make demo` shows a grid, `make test` tests everything.
SHELL := /bin/sh
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
LIB := $(DESTDIR)$(PREFIX)/lib/gridpilot

# Under sudo the toolchain is usually the caller's own.
ifneq ($(SUDO_USER),)
SUDO_HOME := $(shell getent passwd $(SUDO_USER) | cut -d: -f6)
export PATH := $(PATH):$(SUDO_HOME)/.cargo/bin
ifneq ($(wildcard $(SUDO_HOME)/.rustup),)
export RUSTUP_HOME ?= $(SUDO_HOME)/.rustup
endif
endif

.PHONY: all build demo test bench lint install needs needs-batch help simulate simulate-planted

all: build

help:
	@echo "make demo     a grid of two sites on this machine runs an MPI program (needs root)"
	@echo "              BATCH=a=slurm,b=grid-engine: under real batch systems"
	@echo "make test     all tests (needs root: they make namespaces)"
	@echo "make bench    measurements, as ratios"
	@echo "make simulate histories of whole grids; SEED=n shows one, SEEDS=n runs so many"
	@echo "make lint     format, clippy, rules of the house"
	@echo "make install  PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)"

build:
	$(CARGO) build --locked --workspace --bins

# Programs of the system that a local grid needs; installed where apt is and one is root.
needs:
	@./tests/needs.sh

# The same with the real batch systems, for tests under them.
needs-batch:
	@./tests/needs.sh batch

# BATCH=slurm, or one for each site like a=slurm,b=grid-engine: with the real daemons.
BATCH ?= embedded
demo: $(if $(filter-out embedded,$(BATCH)),needs-batch,needs) build
	./target/debug/local-grid demo --batch $(BATCH)

# The grids of the tests share the machine: one test at a time. The other crates' tests do not.
test: needs-batch build
	$(CARGO) test --locked --workspace --exclude gridpilot-tests --exclude node-manager
	$(CARGO) test --locked -p gridpilot-simulate --features planted --test simulation planted
	$(CARGO) test --locked -p node-manager -- --test-threads=1
	$(CARGO) test --locked -p gridpilot-tests -- --test-threads=1

bench: needs
	$(CARGO) build --locked --release --workspace --bins
	./target/release/gridpilot-bench

SIMULATE := $(CARGO) run --locked --profile simulate -p gridpilot-simulate --
SEEDS ?= 100000
FROM ?= 1

simulate:
ifdef SEED
	$(SIMULATE) seed $(SEED)
else
	$(SIMULATE) run --from $(FROM) --count $(SEEDS)
endif

simulate-planted:
	$(CARGO) run --locked --profile simulate -p gridpilot-simulate --features planted -- planted

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked -p gridpilot-tests --test it house:: -- --test-threads=4

# Owner and mode 4755 need root, or fakeroot in a package's build.
install:
	$(CARGO) build --locked --release -p grc -p crm -p launcher -p node-manager -p node-agent --bins
	install -d -m 0755 $(LIB) $(DESTDIR)$(PREFIX)/bin
	install -m 0755 target/release/grc target/release/crm target/release/launcher target/release/node-agent $(LIB)
	install -o root -g root -m 4755 target/release/node-manager $(LIB)
	install -m 0755 target/release/gridpilot $(DESTDIR)$(PREFIX)/bin
