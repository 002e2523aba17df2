#!/bin/bash
# A20 an environment that is no file: a path upwards, devices, pipes, sockets, empty, huge
# where: node
# audit: 1 refused to start: not started by
. "$ATTACKS/lib.sh"
# The node manager mounts no file that anybody names: there is no such field in a grant (its
# layout is fixed) and no such option. What a user can name is the invocation of his own Launcher.
mkfifo fifo; : >empty; truncate -s 1T huge
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")' 2>/dev/null || true
for path in ../../../etc /dev/mem /dev/zero fifo sock empty huge /proc/kmsg; do
    [ -e "$path" ] || continue
    timeout 10 "$LIB/launcher" --invocation "$path" >said 2>&1; code=$?
    [ $code != 124 ] || fell "$path: hangs"
    [ $code != 0 ] || fell "$path: accepted"
    [ "$(wc -l <said)" -le 3 ] || fell "$path: $(cat said)"
done
refused "$HAND" bash -c "exec '$NM' 3<>'$PWD/fifo' 4<'$PWD/empty'"
