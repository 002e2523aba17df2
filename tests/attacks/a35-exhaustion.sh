#!/bin/bash
# A35 fork bomb, memory, the writable part by bytes and by inodes, sockets
# where: inside
# alone
. "$ATTACKS/lib.sh"
# Bytes, then inodes.
head -c 300M /dev/zero 2>/dev/null >/var/tmp/full && fell "300 MB in 64"
rm -f /var/tmp/full
mkdir -p /var/tmp/many
perl -e 'for (1..200000) { open(my $f, ">", "/var/tmp/many/$_") or exit 0 } exit 1' || fell "200,000 files"
rm -rf /var/tmp/many
# Memory: only the one who asks is killed.
perl -e '$x = "x" x (1 << 30); print length $x' 2>/dev/null | grep -q . && fell "1 GB in 256 MB"
# Sockets, descriptors.
perl -MSocket -e 'my @s; for (1..1000000) { socket(my $x, PF_INET, SOCK_DGRAM, 0) or exit 0; push @s, $x } exit 1' || fell "a million sockets"
# A fork bomb, for a moment; then it goes with its session. It may take this script with it.
echo "last step"
timeout -s KILL 5 setsid -w bash -c 'b() { b | b & }; b; sleep 4' >/dev/null 2>&1
sleep 1
exit 0
