#!/bin/bash
# A46 kill -9 of the Launcher between the fork and the watch over it
# where: root
# audit: * build a-
# audit: * torn down
# audit: * refused to start: not started by
# loops: 60 500
. "$ATTACKS/lib.sh"
for n in $(seq "$LOOPS"); do
    become_user bash -c 'exec "$LIB/launcher" --invocation - <<<nowhere' 2>/dev/null &
    launcher=$!
    # Any moment from before its first instruction to after the agent's end.
    sleep "$(printf '0.%04d' $((n * 3 % 120)))"
    kill -KILL $launcher 2>/dev/null
    wait 2>/dev/null
done
exit 0
