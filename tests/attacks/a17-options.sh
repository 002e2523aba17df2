#!/bin/bash
# A17 options, and files named by the environment
# where: node
# audit: 4 refused to start: usage
# audit: 1 refused to start: not started by
. "$ATTACKS/lib.sh"
echo 'site = evil' >evil.toml
for words in "--config evil.toml" "-c evil.toml" "sweep evil.toml" "serve"; do
    said=$("$NM" $words 2>&1); [ $? = 2 ] || fell "$words: $said"
    case $said in "node-manager: usage:"*) ;; *) fell "$words: $said" ;; esac
done
mkdir -p h/.config/gridpilot; cp evil.toml h/.config/gridpilot/node.policy
refused "$HAND" env HOME="$PWD/h" XDG_CONFIG_HOME="$PWD/h/.config" XDG_RUNTIME_DIR="$PWD/h" TMPDIR="$PWD/h" \
    GRIDPILOT_POLICY="$PWD/evil.toml" "$NM"
