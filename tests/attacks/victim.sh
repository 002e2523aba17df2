#!/bin/bash
# Somebody else's job on the node: has everything that could be seen or reached, and says where.
# $1 is where that is said; the file $1.beat says how long it had to wait for a trifle.
set -u
perl -e '
    use Socket; use IO::Socket::UNIX;
    socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; bind($s, pack("S a*", AF_UNIX, "\0gridpilot-victim")) or die; listen($s, 5);
    my $shm = shmget(4711, 4096, 01600 | 0666); $shm = shmget(4711, 4096, 0666) unless defined $shm; shmwrite($shm, "victim", 0, 6);
    sleep 1000 while 1;' &
echo secret-of-the-victim >/dev/shm/victim; echo secret-of-the-victim >/tmp/victim
(exec -a marker-of-the-victim sleep 100000) &
{ hostname; ls -i /proc/self/ns/net; } >"$1.new"; mv "$1.new" "$1"
# What takes a tenth of a second and a process: in milliseconds, the worst of the last hundred. The
# disk has no part in it. Who takes the file away asks for what comes from then on.
exec perl -MTime::HiRes=time,sleep -e '
    while (1) {
        my $begin = time; sleep 0.1; system("true"); push @took, int((time - $begin) * 1000);
        if (!-e $ARGV[0]) { @took = (0) } elsif (@took > 100) { shift @took }
        my ($worst) = sort { $b <=> $a } @took;
        open(my $file, ">", "$ARGV[0].new"); print $file $worst; close $file; rename "$ARGV[0].new", $ARGV[0];
    }' "$1.beat"
