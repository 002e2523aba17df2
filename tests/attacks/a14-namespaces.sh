#!/bin/bash
# A14 inside a user namespace, and from a filesystem mounted nosuid
# where: root
# audit: 2 refused to start: setuid is ineffective
# audit: 2 refused to start: called inside a user namespace
. "$ATTACKS/lib.sh"
for flags in -U -Ur "-Urm --propagation=slave"; do
    said=$(as_user unshare $flags "$NM" 2>&1); code=$?
    case $said in *"setuid is ineffective"*|*"user namespace"*) [ $code = 1 ] || fell "code $code" ;; *) fell "$flags: $said" ;; esac
done
as_user unshare -Ur true || impossible "no user namespaces here"
mkdir m; mount -t tmpfs -o nosuid,mode=755 none m; cp -p "$NM" m/; chmod 4755 m/node-manager
refused "setuid is ineffective" as_user m/node-manager
umount m
