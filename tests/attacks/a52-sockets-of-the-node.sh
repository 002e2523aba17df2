#!/bin/bash
# A52 sockets of the node's daemons
# where: inside
. "$ATTACKS/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
[ -z "$(ls -A /run 2>/dev/null | grep -vxE 'sshd.log|mount')" ] || fell "/run holds $(ls -A /run)"
ls /tmp/.X11-unix /tmp/ssh-* 2>/dev/null && fell "/tmp of the node"
ss -xl 2>/dev/null | tail -n +2 | grep -v sshd | grep . && fell "sockets"
for path in /run/munge/munge.socket.2 /var/run/docker.sock /run/dbus/system_bus_socket /run/systemd/private /run/slurmd /var/run/nscd/socket /dev/log /run/systemd/journal/socket; do
    [ -S $path ] && fell "$path"
done
perl -MSocket -e 'for my $name ("/tmp/.X11-unix/X0", "/org/freedesktop/systemd1/notify") { socket(my $s, PF_UNIX, SOCK_STREAM, 0); exit 1 if connect($s, pack("S a*", AF_UNIX, "\0$name")) } exit 0' || fell "an abstract socket"
exit 0
