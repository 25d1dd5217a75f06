# Thin: the work is done by cargo and by xtask.
#
#   make demo      a container started by runc, cold and restored, in an emulated host
#   make test      everything that tests, but for scenarios of more than ten minutes
#   make shell     a prompt in the emulated host, containerd running
#   make e2e       the scenarios, all of them: FILTER=glob, HOST=containerd-2|containerd-1.7
#   make soak      the repetitions that are too long for every day
#   make bench     our starts against runc's
#   make check     formatting, lints, documentation, dependency policy, architecture
#   make install   into DESTDIR, or this machine

FILTER ?= *
HOST ?= containerd-2
DESTDIR ?= /

xtask = cargo run --quiet --package xtask --

.PHONY: demo test shell e2e soak bench check install setup unit

demo: setup
	@$(xtask) demo

test: setup unit
	@$(xtask) e2e --profile release --up-to 600 --flavour containerd-1.7 --filter 'run-*,docker-run'
	@$(xtask) e2e --profile release --up-to 600

shell: setup
	@$(xtask) host shell --profile release

e2e: setup
	@$(xtask) e2e --profile release --filter '$(FILTER)' --flavour $(HOST)

soak: setup
	@$(xtask) e2e --profile release --soak --time-limit 10800

bench: setup
	@$(xtask) bench

check: setup
	@$(xtask) check

install: setup
	@$(xtask) install --root '$(DESTDIR)'

unit: setup
	@echo '==> unit tests'
	@cargo test --quiet --workspace

setup:
	@xtask/bootstrap.sh
