#!/bin/sh
# internet.sh DIR COMMAND...: runs COMMAND on a machine (11.0.0.2) whose only neighbour (11.0.0.1) plays the internet.
#
# Both are network namespaces of a user namespace; start this under `unshare --user --map-root-user --net --mount`. The
# neighbour also has a private and a link-local address, and answers for names; DIR gets a line in `far` for each
# connection to it, and in `near` for each to this machine itself. It speaks https when DIR has a `tls.pem`.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
here=$(dirname "$0") dir=$1
shift
far='' near=''
trap 'kill $far $near 2>/dev/null || true' EXIT
mkfifo "$dir/far.ready" "$dir/near.ready"
: >"$dir/far"
: >"$dir/near"
tls=''
[ ! -e "$dir/tls.pem" ] || tls="tls=$dir/tls.pem"
unshare --net python3 "$here/far.py" "$dir/far.ready" "$dir/far" dns $tls &
far=$!
python3 "$here/far.py" "$dir/near.ready" "$dir/near" &
near=$!
read -r _ <"$dir/far.ready"
read -r _ <"$dir/near.ready"

ip link set lo up
ip link add veth0 type veth peer name veth1
ip link set veth1 netns "$far"
ip address add 11.0.0.2/24 dev veth0
ip address add 11.0.0.3/24 dev veth0
ip link set veth0 up
nsenter --target "$far" --net sh -eu -c '
    ip link set lo up
    ip address add 11.0.0.1/24 dev veth1
    ip address add 10.9.9.9/32 dev veth1
    ip address add 169.254.169.254/32 dev veth1
    ip link set veth1 up'
ip route add default via 11.0.0.1
echo "nameserver 11.0.0.1" >"$dir/resolv.conf"
mount --bind "$dir/resolv.conf" /etc/resolv.conf
"$@"
