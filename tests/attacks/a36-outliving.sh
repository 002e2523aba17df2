#!/bin/bash
# A36 double fork, own session, ignored signals, and a namespace held open with its socket in the home
# where: inside
# alone
. "$ATTACKS/lib.sh"
# The grid ends this sandbox next and counts what is left on the node: processes, links, namespaces.
for n in 1 2 3; do
    (setsid bash -c 'trap "" TERM HUP INT QUIT USR1 USR2 PIPE; (while :; do sleep 1000; done) </dev/null >/dev/null 2>&1 & disown; while :; do sleep 1000; done' </dev/null >/dev/null 2>&1 &)
done
# One of them holds the network namespace open and listens in the home. (What becomes of a namespace
# that somebody outside holds is tried in a36-passed-out.)
perl -e '
    use Socket; my $path = "$ENV{ATTACKS}/ns.sock"; unlink $path;
    socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; bind($s, sockaddr_un($path)) or die; listen($s, 1);
    open(my $ns, "<", "/proc/self/ns/net"); exit 0 if fork; $SIG{TERM} = "IGNORE"; sleep 100 while 1;' </dev/null >/dev/null 2>&1 || fell "no socket in the home"
exit 0
