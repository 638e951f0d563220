#!/usr/bin/env bash
# A machine under the real systemd, without booting one: systemd-nspawn on an overlay of this host's own root.
#
#   boot.sh NAME COMMAND [ARGUMENT…] < pipe
#
# Makes the cgroup NAME, namespaces (mounts, processes, network) and the machine's root, and executes COMMAND there:
# this file's own `boot START-WORKER TEST-WORKER UNITS`, or anything else. It ends when COMMAND does or when the pipe is
# closed, so also when whoever holds it is killed. Then nothing is left: processes, mounts and network go with their
# namespaces, the cgroup is removed. Nothing of the host is changed: it is seen through the overlay, whose upper layer is
# in memory.
set -euo pipefail

# What is to be executed inside the namespaces.
if [ "$1" = inside ]; then
    shift
    # systemd-nspawn keeps its things in /run. What is on it here is seen in this namespace alone.
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir /run/systemd /run/host-root /run/upper /run/work /run/root
    # Without what is mounted on it.
    mount --bind / /run/host-root
    mount -t overlay -o lowerdir=/run/host-root,upperdir=/run/upper,workdir=/run/work overlay /run/root
    ip link set lo up
    # Where clouds have their metadata services.
    ip address add 169.254.169.254/32 dev lo
    exec "$@"
fi

# Inside: the machine's disk, and the machine until it is switched off.
if [ "$1" = boot ]; then
    start_worker=$2 test_worker=$3 units=$4 root=/run/root
    # Nothing that this host does by itself; an identity and a journal of its own.
    rm -rf $root/etc/systemd/system/*.wants $root/etc/rc?.d $root/etc/fstab $root/etc/resolv.conf $root/var/log/journal
    : >$root/etc/machine-id
    rm -f $root/var/lib/dbus/machine-id
    mkdir -p $root/var/log/journal
    # They look at the hardware, at each reload of the units, too.
    rm -f $root/usr/lib/systemd/system-generators/*
    cp "$start_worker" $root/usr/bin/start-worker
    cp "$test_worker" $root/usr/bin/test-worker
    cp -r "$units"/. $root/usr/lib/systemd/system/
    while :; do
        status=0
        SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --machine=boot \
            --directory=$root --boot --console=read-only systemd.unit=multi-user.target </dev/null || status=$?
        # 133: the machine reboots.
        [ "$status" = 133 ] || exit "$status"
    done
fi

name=$1
shift
# A background command has no stdin, unless it has it from elsewhere.
exec 3<&0 </dev/null
groups=()
remove_groups() {
    local group
    for group in "${groups[@]}"; do
        # A group is busy until its last process is gone altogether.
        for ((attempt = 0; attempt < 200; attempt++)); do
            [ -e "$group" ] || break
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
        done
    done
}
trap remove_groups EXIT
# Ctrl-C is the end, too.
trap : INT TERM HUP

# In a group of its own, or systemd would take every process of this host into its care.
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    [ -e $hierarchy/cgroup.procs ] || continue
    mkdir "$hierarchy/$name"
    groups+=("$hierarchy/$name")
done

(
    for group in "${groups[@]}"; do echo $BASHPID >"$group/cgroup.procs"; done
    # Whoever is above is killed: so is what is below, down to the last process.
    exec setpriv --pdeathsig KILL \
        unshare --mount --pid --net --fork --kill-child --mount-proc --propagation private bash "$0" inside "$@"
) 3<&- &
below=$!
# What comes first: the end of the machine, or of the pipe.
{ while read -r _; do :; done; kill -KILL $below; } <&3 2>/dev/null &
watch=$!
status=0
wait $below 2>/dev/null || status=$?
kill -KILL $below 2>/dev/null || :
kill $watch 2>/dev/null || :
exit $status
