#!/bin/bash
# A37 typing into the terminal that it was started from
# where: node
# audit: 1 build a-
# audit: 1 torn down
. "$ATTACKS/lib.sh"
need script
cat >inside.pl <<'P'
for my $fd (0..20) { open(my $f, "<&=", $fd) or next;
    for my $request (0x5412, 0x541C) { my $c = "x"; die "fd $fd: typed\n" if ioctl($f, $request, $c); } }
open(my $tty, "<", "/dev/tty") and die "it has a terminal\n";
exit 0;
P
cp inside.pl "$SHARE/inside.pl"; chmod 644 "$SHARE/inside.pl"
script -qec "$PILOT build 'expect built' 'inside perl $SHARE/inside.pl; ls /proc/\$\$/fd >/dev/null; test \$(awk \"{print \\\$7}\" /proc/self/stat) = 0' teardown 'expect gone'" /dev/null >said </dev/null || fell "$(cat said)"
rm -f "$SHARE/inside.pl"
