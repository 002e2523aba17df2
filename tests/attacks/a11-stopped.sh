#!/bin/bash
# A11 a stopped Launcher, a stopped agent, and the end of the lifetime
# where: root
# audit: 3 build a-
# audit: 3 torn down
. "$ATTACKS/lib.sh"
# Stopped for longer than the lifetime: the monitor's own clock ends it.
as_user "$PILOT" "build lifetime=1" "expect built" 'node kill -STOP $PPID; sleep 0.1; kill -CONT $PPID; true' \
    "expect ended LifetimeOver" "exit 0" || fell "the tool itself stopped"
# The Launcher is who started the node manager: a real one here, stopped by its own user.
become_user bash -c '"$PILOT" "build lifetime=2" "expect built" "node echo \$MONITOR >monitor; kill -STOP \$PPID" & echo $! >tool; wait' 2>/dev/null &
for _ in $(seq 400); do [ -s monitor ] && break; sleep 0.02; done
[ -s monitor ] || fell "no pilot"
monitor=$(cat monitor)
for _ in $(seq 1000); do lives $monitor || break; sleep 0.02; done
lives $monitor && fell "a stopped Launcher keeps the sandbox"
kill -KILL "$(cat tool)" 2>/dev/null; wait
# The agent stopped (only root can), then the Launcher dies.
rm -f monitor
become_user "$PILOT" build "expect built" 'node echo $AGENT >agent; echo $MONITOR >monitor; exec sleep 1000' 2>/dev/null &
tool=$!
for _ in $(seq 400); do [ -s agent ] && break; sleep 0.02; done
sleep 0.1; kill -STOP "$(cat agent)"
kill -KILL $tool
monitor=$(cat monitor)
for _ in $(seq 1000); do lives $monitor || break; sleep 0.02; done
lives $monitor && fell "a stopped agent keeps the sandbox"
for pid in $(grep -lE "^Uid:\s$USER_UID\s" /proc/[0-9]*/status 2>/dev/null | cut -d/ -f3); do kill -KILL "$pid"; done
exit 0
