#!/bin/bash
# A30 another address or MAC, raw packets, forged ARP
# where: inside
. "$ATTACKS/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
own=$(ip -o -4 addr show eth0 | awk '{print $4}'); mac=$(cat /sys/class/net/eth0/address)
for words in "addr add 10.71.200.1/16 dev eth0" "addr del $own dev eth0" "link set eth0 address 02:00:00:00:00:01" \
    "link set eth0 down" "link set eth0 promisc on" "link add dummy0 type dummy" "link add link eth0 name m type macvlan" \
    "route add 10.99.0.0/16 dev eth0" "neigh add 10.71.0.1 lladdr 02:00:00:00:00:01 dev eth0" "link set eth0 netns 1"; do
    must_fail ip $words
done
must_fail unshare -Urn true
must_fail unshare -n true
perl -MSocket -e '
    socket(my $s, PF_INET, SOCK_RAW, 255) and die "a raw IP socket\n";
    socket($s, 17, SOCK_RAW, 0x0300) and die "a packet socket\n";
    socket($s, 17, SOCK_DGRAM, 0x0300) and die "a packet socket\n";
    # Sending from an address that is not ours.
    for my $address ("10.71.200.1", "0.0.0.1", "127.0.0.9") {
        socket($s, PF_INET, SOCK_DGRAM, 17) or die;
        next unless bind($s, pack_sockaddr_in(0, inet_aton($address)));
        die "bound to $address\n" unless $address =~ /^127/;
    }
    socket($s, PF_INET, SOCK_DGRAM, 17) or die;
    setsockopt($s, 0, 19, pack("i", 1)) and die "IP_TRANSPARENT\n";
    # IP_FREEBIND lets one bind, but sends nothing from there that a node would pass on.
    exit 0' || fell "$?"
[ "$(ip -o -4 addr show eth0 | awk '{print $4}')" = "$own" ] && [ "$(cat /sys/class/net/eth0/address)" = "$mac" ] || fell "it changed"
