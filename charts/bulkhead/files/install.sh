#!/bin/sh
# Installs the programs and the configuration of /bulkhead on the node whose root is at $HOST.
#
# Each file is written beside its place and renamed, so that a running program is never cut
# off and a reader never sees half a file; a file that is there already with the same contents
# is left alone. May be run any number of times. POSIX sh: busybox will do.
set -eu

changed=no

# put MODE SOURCE TARGET
put() {
    target=$HOST$3
    if cmp -s "$2" "$target" 2>/dev/null; then return 0; fi
    mkdir -p "${target%/*}"
    cp "$2" "$target.new"
    chmod "$1" "$target.new"
    mv -f "$target.new" "$target"
    changed=yes
    echo "installed $3"
}

put 0755 /bulkhead/bulkhead "$PROGRAMS/bulkhead"
put 0755 /bulkhead/bulkhead-conmon "$PROGRAMS/bulkhead-conmon"
for plugin in loopback bridge host-local portmap; do
    put 0755 /bulkhead/bulkhead-cni "$CNI_PLUGINS/$plugin"
done
if [ -e /chart/config.yaml ]; then
    put 0644 /chart/config.yaml "$CONFIG/config.d/10-chart.yaml"
elif [ -e "$HOST$CONFIG/config.d/10-chart.yaml" ]; then
    rm "$HOST$CONFIG/config.d/10-chart.yaml"
    changed=yes
fi
if [ "$EXAMPLE_NETWORK" = true ] && [ -z "$(ls -A "$HOST/etc/cni/net.d" 2>/dev/null)" ]; then
    put 0644 /bulkhead/10-bulkhead.conflist /etc/cni/net.d/10-bulkhead.conflist
fi
[ "$MANAGE_SERVICE" = true ] || exit 0

sed "s|/usr/local/bin/bulkhead|$PROGRAMS/bulkhead|" /bulkhead/bulkhead.service >/tmp/bulkhead.service
put 0644 /tmp/bulkhead.service "$UNITS/bulkhead.service"
# In the mount namespace of the node's first process: its systemd, its sockets.
on_node() { nsenter -t 1 -m -- "$@"; }
if [ "$changed" = yes ]; then
    on_node systemctl daemon-reload
    on_node systemctl enable bulkhead.service
    on_node systemctl restart bulkhead.service
else
    on_node systemctl start bulkhead.service
fi
