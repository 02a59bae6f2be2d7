#!/bin/bash
# Inside the VM, as root: guest.sh PROJECT COMMAND...
set -euo pipefail

project=$1
shift
host=/run/host
disk=/run/disk
modules=$(readlink -f "/lib/modules/$(uname -r)")

# The same files once more, through a cache: over the project, and over /usr with what virtme-ng had put into its lib.
mkdir -p $host $disk /run/usr/{upper,work}
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose,access=any host $host
mount -t overlay -o lowerdir=$host/usr,upperdir=/run/usr/upper,workdir=/run/usr/work usr /usr
mkdir -p /usr/lib/modules
mount -t tmpfs modules /usr/lib/modules
ln -s "$host$modules" "/usr/lib/modules/$(uname -r)"
mount --bind "$host$project" "$project"

modprobe -a ext4 overlay loop fuse tun veth bridge
modprobe ifb numifbs=0 # or there would be two that nobody asked for
mount /dev/vda $disk
mkdir -p $disk/{tmp,state}  # from the second boot on they are there
chmod 1777 $disk/tmp

# As an init would: controllers are for the root's children too.
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
export TMPDIR=$disk/tmp VE_TEST_DIR=$disk/state HYPOTHESIS_STORAGE_DIRECTORY=$disk/hypothesis
export PYTHONDONTWRITEBYTECODE=1
cd "$project"
echo "==> in the VM: kernel $(uname -r), up for $(cut -d ' ' -f 1 /proc/uptime) s"
exec "$@"
