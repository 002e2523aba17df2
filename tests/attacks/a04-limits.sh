#!/bin/bash
# A4 limits of the caller that would end a program half way
# where: node
# audit: * build a-
# audit: * torn down
# audit: * refused to start: the limit on
. "$ATTACKS/lib.sh"
# built or refused in one line by name: never half a sandbox, no half-written state, no core.
limit() {
    rm -f said
    "$PILOT" "via ulimit $1" build "expect built" "inside test ! -e core" teardown "expect gone" 2>said && return
    grep -q "error while loading shared libraries" said && return
    grep -q "node-manager: the limit on .* is too low here and cannot be raised" said || fell "$1: $(cat said)"
    [ "$(grep -c node-manager: said)" = 1 ] || fell "$1: $(cat said)"
}
for limits in "-f 0" "-t 1" "-n 8" "-n 4" "-c unlimited"; do limit "$limits"; done
# What the caller may raise again must not hinder at all.
for limits in "-S -f 0" "-S -t 1" "-S -n 8" "-S -v 65536" "-S -s 128" "-S -u 1" "-S -d 1000"; do
    "$PILOT" "via ulimit $limits" build "expect built" "inside test ! -e core" teardown "expect gone" || fell "$limits"
done
# Too little even for a loader or a shell: whoever gives up, nothing is built by halves.
for limits in "-S -s 16" "-u 1" "-v 65536" "-s 16" "-v 4096"; do "$PILOT" "via ulimit $limits" build "expect built" teardown 2>/dev/null; done
ls core* 2>/dev/null && fell "a core"
exit 0
