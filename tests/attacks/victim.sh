#!/bin/bash
# Somebody else's job on the node: has everything that could be seen or reached, and says where.
# $1 is where that is said; the file $1.beat is written ten times a second.
set -u
perl -e '
    use Socket; use IO::Socket::UNIX;
    socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; bind($s, pack("S a*", AF_UNIX, "\0gridpilot-victim")) or die; listen($s, 5);
    my $shm = shmget(4711, 4096, 01600 | 0666); $shm = shmget(4711, 4096, 0666) unless defined $shm; shmwrite($shm, "victim", 0, 6);
    sleep 1000 while 1;' &
echo secret-of-the-victim >/dev/shm/victim; echo secret-of-the-victim >/tmp/victim
(exec -a marker-of-the-victim sleep 100000) &
{ hostname; ls -i /proc/self/ns/net; } >"$1.new"; mv "$1.new" "$1"
n=0
while :; do n=$((n + 1)); echo $n >"$1.beat.new"; mv "$1.beat.new" "$1.beat"; sleep 0.1; done
