#!/bin/bash
# A36 double fork, own session, ignored signals, and the namespace passed out through the home
# where: inside
# alone
. "$ATTACKS/lib.sh"
# The grid ends this sandbox next and counts what is left on the node: processes, links, namespaces.
for n in 1 2 3; do
    (setsid bash -c 'trap "" TERM HUP INT QUIT USR1 USR2 PIPE; (while :; do sleep 1000; done) </dev/null >/dev/null 2>&1 & disown; while :; do sleep 1000; done' </dev/null >/dev/null 2>&1 &)
done
# A descriptor of the network namespace waits in a socket of the home for anybody to take.
perl -e '
    use Socket; my $path = "$ENV{ATTACKS}/ns.sock"; unlink $path;
    socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; bind($s, sockaddr_un($path)) or exit 0; listen($s, 1);
    open(my $ns, "<", "/proc/self/ns/net"); exit 0 if fork; $SIG{TERM} = "IGNORE"; sleep 100 while 1;' </dev/null >/dev/null 2>&1
exit 0
