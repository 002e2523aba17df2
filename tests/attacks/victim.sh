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
# How long what takes a tenth of a second and a process took at worst, in milliseconds, since somebody
# took the file away. The disk has no part in it.
exec perl -MTime::HiRes=time,sleep -e '
    my $worst = 0;
    while (1) {
        my $begin = time; sleep 0.1; system("true"); my $took = int((time - $begin) * 1000);
        $worst = 0 unless -e $ARGV[0]; $worst = $took if $took > $worst && -e $ARGV[0];
        open(my $file, ">", "$ARGV[0].new"); print $file $worst; close $file; rename "$ARGV[0].new", $ARGV[0];
    }' "$1.beat"
