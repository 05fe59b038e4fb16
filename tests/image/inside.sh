#!/bin/sh
# Runs a command in a root file system the way a careful container does: as process 1, as an unprivileged user with
# nothing to gain, on a root that nobody can write to. Needs root, and to be run by `unshare --mount --pid --fork`.
#
# inside.sh ROOT FOLDER TMP NAME=VALUE… COMMAND…     FOLDER is what the command finds at /mnt; TMP is `tmpfs` where it may
#                                                   write to /tmp, as it must with several workers, else `none`
set -eu
root=$1 folder=$2 tmp=$3
shift 3
mount --make-rprivate /
mount --bind -o ro "$root" "$root"
mount --bind -o ro "$folder" "$root/mnt"
mount -t proc proc "$root/proc"
[ "$tmp" = none ] || mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
exec setpriv --no-new-privs env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot --userspec=10001:10001 "$root" /usr/bin/env "$@"
