# Pid 1 of the node: prepares its private namespaces, and runs what it is given. The end of that is the end of everything in them.
# Arguments: folder of the node, and the program with its arguments. Run by e2e/src/node/isolation.rs.
set -eu
dir=$1
shift

mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/sysctl
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/kubelet "$dir/kubelet"
mount --bind "$dir/kubelet" /var/lib/kubelet

# The kubelet sets these for the whole machine.
keep() {
  echo "$2" >"/run/sysctl/${1##*/}"
  mount --bind "/run/sysctl/${1##*/}" "/proc/sys/$1"
}
keep vm/overcommit_memory 1
keep kernel/panic 10
keep kernel/panic_on_oops 1

ip link set lo up
ip address add 10.88.0.1/32 dev lo # the node
ip address add 10.96.0.1/32 dev lo # the Service kubernetes, with the API server behind it
ip route add 10.96.0.0/16 dev lo
echo 1 >/proc/sys/net/ipv4/ip_forward

# Not exec: orphans of containers come to this shell, which reaps them.
"$@"
