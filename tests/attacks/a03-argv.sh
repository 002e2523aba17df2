#!/bin/bash
# A3 no name, no arguments at all
# where: node
# audit: 3 refused to start: not started by
. "$ATTACKS/lib.sh"
need gcc
refused "$HAND" bash -c "exec -a '' '$NM'"
refused "$HAND" bash -c "exec -a '--version' '$NM'"
cat >empty.c <<'C'
#include <unistd.h>
int main(int c, char **v) { char *none[] = {0}; execve(v[1], none, none); return 9; }
C
gcc -o empty empty.c && refused "$HAND" ./empty "$NM"
