#!/usr/bin/env bash
# The inside of a container, as an engine makes it: a root of its own, /proc, and then the command as PID 1.
#
#   container.sh KIND ROOT DATA BIN OPTIONS COMMAND [ARGUMENT…]
#
# It runs in namespaces of its own (mounts, processes, network; users, where it is rootless). KIND is who runs the command:
# `root` and `rootless` as uid 0 of the container, `user` and `rootless-user` as uid 1000. OPTIONS, by commas: `read-only`
# makes the root read-only, `run` gives it a /run that the user may write, `file=NAME` mounts the file NAME of DATA alone,
# at /file/NAME. The image has what plain images have, and no init system: no systemctl, no shutdown, no reboot.
set -euo pipefail
kind=$1 root=$2 data=$3 bin=$4 options=,$5,
shift 5
case $kind in
*user) owner=1000 ;;
*) owner=0 ;;
esac
# A user of a rootless container is uid 0 to this script, which maps it below.
[ "$kind" != rootless-user ] || owner=0

mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root"/{bin,data,dev,etc,file,opt/bin,proc,run,tmp,usr/lib,usr/lib64,var/lib}
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
for folder in /usr/lib /usr/lib64 /dev; do
    [ ! -d $folder ] || mount --rbind $folder "$root$folder"
done
for program in sh sleep cat ls env; do
    cp "$(command -v $program)" "$root/bin/"
done
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$data" "$root/data"
mount --bind "$bin" "$root/opt/bin"
for option in ${options//,/ }; do
    case $option in
    run)
        mount -t tmpfs -o mode=755 tmpfs "$root/run"
        chown $owner "$root/run"
        ;;
    file=*)
        : >"$root/file/${option#file=}"
        mount --bind "$data/${option#file=}" "$root/file/${option#file=}"
        ;;
    esac
done
case $options in
*,read-only,*) mount -o remount,bind,ro "$root" ;;
esac

case $kind in
user) exec chroot --userspec=1000:1000 --groups=1000 "$root" "$@" ;;
rootless-user) exec unshare --user --map-user=1000 --map-group=1000 --root="$root" --wd=/ "$@" ;;
*) exec chroot "$root" "$@" ;;
esac
